"""Pictures in, quality figures out: the metrics that training and evaluation share.

features    the ImageNet convolutional trunks that perceptual metrics look through
lpips       LPIPS v0.1 with AlexNet, VGG16 or SqueezeNet1.1 features, differentiable
distortion  PSNR and MS-SSIM on 8-bit pictures

The weights lie in a folder that the caller names; nothing is downloaded.
"""
