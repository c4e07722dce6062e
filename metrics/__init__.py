"""Images in, quality figures out: the metrics that training and evaluation share.

distortion    PSNR and MS-SSIM on 8-bit images
features      the ImageNet convolutional backbones that perceptual metrics look through
lpips         LPIPS v0.1 with AlexNet, VGG16 or SqueezeNet1.1 features, differentiable
dists         DISTS, differentiable
ssimulacra2   SSIMULACRA 2.1
efficientnet  EfficientNet-Lite0: the features of crops
frechet       Frechet distance and KID between sets of such features
text          what a machine reads in an image, and how much of it is lost

The weights lie in a folder that the caller names; nothing is downloaded here.
"""
