"""What is composed with every rule: scaling, decay, clipping, noise."""
