"""Networks, built of `nn`: sizes are arguments, names of parameters those of torchvision."""

from .autoencoders import autoencoder, conv_decoder, conv_encoder
from .boxes import (
    box_area,
    box_convert,
    box_iou,
    clip_boxes_to_image,
    complete_box_iou,
    distance_box_iou,
    generalized_box_iou,
)
from .boxes_losses import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss
from .boxes_suppression import KeptBoxes, batched_nms, nms
from .detector import RetinaNetOutputs, retinanet_head
from .detector_anchors import decode_boxes, encode_boxes, grid_anchors, match_anchors
from .detector_training import (
    Detections,
    RetinaNetLosses,
    l1_of_codes,
    retinanet_detections,
    retinanet_loss,
)
from .encoder_decoder import EncoderDecoder, encoder_decoder_transformer
from .encoder_decoder_translation import translate
from .generation import generate
from .gpt2 import gpt, gpt_decoder
from .gpt2_weights import gpt2_params
from .lenet5 import lenet
from .loading import pretrained
from .perceptron import mlp
from .published import PublishedWeights, published_weights
from .recurrent_classifier import last_state, lstm_classifier, max_over_steps, mean_over_steps
from .recurrent_language_model import lstm_decoder, lstm_language_model
from .resnet import (
    residual_network,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    resnext101_32x8d,
    resnext101_64x4d,
    wide_resnet50_2,
    wide_resnet101_2,
)
from .sampling import sample_token, top_k_logits, top_p_logits
from .u_net import unet
from .variational import VariationalOutput, elbo, gaussian_kl, variational_autoencoder
from .vgg import vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn
from .vit import interpolate_positions, vision_transformer, vit_b_16, vit_b_32, vit_l_16

__all__ = [
    "Detections",
    "EncoderDecoder",
    "KeptBoxes",
    "PublishedWeights",
    "RetinaNetLosses",
    "RetinaNetOutputs",
    "VariationalOutput",
    "autoencoder",
    "batched_nms",
    "box_area",
    "box_convert",
    "box_iou",
    "clip_boxes_to_image",
    "complete_box_iou",
    "complete_box_iou_loss",
    "conv_decoder",
    "conv_encoder",
    "decode_boxes",
    "distance_box_iou",
    "distance_box_iou_loss",
    "elbo",
    "encode_boxes",
    "encoder_decoder_transformer",
    "gaussian_kl",
    "generalized_box_iou",
    "generalized_box_iou_loss",
    "generate",
    "gpt",
    "gpt2_params",
    "gpt_decoder",
    "grid_anchors",
    "interpolate_positions",
    "l1_of_codes",
    "last_state",
    "lenet",
    "lstm_classifier",
    "lstm_decoder",
    "lstm_language_model",
    "match_anchors",
    "max_over_steps",
    "mean_over_steps",
    "mlp",
    "nms",
    "pretrained",
    "published_weights",
    "residual_network",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "retinanet_detections",
    "retinanet_head",
    "retinanet_loss",
    "sample_token",
    "top_k_logits",
    "top_p_logits",
    "translate",
    "unet",
    "variational_autoencoder",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "vision_transformer",
    "vit_b_16",
    "vit_b_32",
    "vit_l_16",
    "wide_resnet50_2",
    "wide_resnet101_2",
]
