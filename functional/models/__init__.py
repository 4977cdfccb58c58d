"""Networks, built of `nn`: sizes are arguments, names of parameters those of torchvision."""

from .resnet import resnet18, resnet34, resnet50, resnet101, wide_resnet50_2

__all__ = ["resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2"]
