"""The forward pass of the published TransCAM and BAO networks, rendered slowly and straight from a state dict.

Functional and independent of the package: attention matrices of all blocks are stacked, nothing is shared with the
code under test. `random_state` draws a state dict in published names.
"""

import torch
import torch.nn.functional as F

STEM = 64


def random_state(*, ratio, width, depth, classes, heads="bao", hidden=None, seed=0):
    """Random weights in published names; `heads`: "imagenet", "transcam" or "bao"."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def draw(name, *shape, scale=None):
        fan_in = torch.tensor(shape[1:]).prod().item() if len(shape) > 1 else 1
        state[name] = torch.randn(shape, generator=generator) * (scale or fan_in**-0.5)

    def norm(name, channels, *, batch=False):
        state[f"{name}.weight"] = 1 + 0.2 * torch.randn(channels, generator=generator)
        state[f"{name}.bias"] = 0.2 * torch.randn(channels, generator=generator)
        if batch:
            state[f"{name}.running_mean"] = 0.2 * torch.randn(channels, generator=generator)
            state[f"{name}.running_var"] = 0.5 + torch.rand(channels, generator=generator)
            state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def linear(name, inputs, outputs):
        draw(f"{name}.weight", outputs, inputs)
        draw(f"{name}.bias", outputs, scale=0.2)

    def conv(name, inputs, outputs, kernel, *, bias=False):
        draw(f"{name}.weight", outputs, inputs, kernel, kernel)
        if bias:
            draw(f"{name}.bias", outputs, scale=0.2)

    def bottleneck(name, inputs, outputs, *, residual):
        inner = outputs // 4
        for number, shape in enumerate([(inputs, inner, 1), (inner, inner, 3), (inner, outputs, 1)], start=1):
            conv(f"{name}.conv{number}", *shape)
            norm(f"{name}.bn{number}", shape[1], batch=True)
        if residual:
            conv(f"{name}.residual_conv", inputs, outputs, 1)
            norm(f"{name}.residual_bn", outputs, batch=True)

    def transformer(name):
        norm(f"{name}.norm1", width)
        linear(f"{name}.attn.qkv", width, 3 * width)
        linear(f"{name}.attn.proj", width, width)
        norm(f"{name}.norm2", width)
        linear(f"{name}.mlp.fc1", width, hidden or 4 * width)
        linear(f"{name}.mlp.fc2", hidden or 4 * width, width)

    conv("conv1", 3, STEM, 7)
    norm("bn1", STEM, batch=True)
    draw("cls_token", 1, 1, width, scale=0.5)
    conv("trans_patch_conv", STEM, width, 4, bias=True)
    widths = [int(64 * ratio), int(128 * ratio), int(256 * ratio)]
    bottleneck("conv_1", STEM, widths[0], residual=True)
    transformer("trans_1")
    third = depth // 3
    for index in range(2, depth + 1):
        stage = (index - 1) // third
        entry = index in (third + 1, 2 * third + 1)
        channels = widths[stage]
        name = f"conv_trans_{index}"
        bottleneck(f"{name}.cnn_block", widths[stage - 1] if entry else channels, channels, residual=entry)
        bottleneck(f"{name}.fusion_block", channels, channels, residual=index == depth)
        conv(f"{name}.squeeze_block.conv_project", channels // 4, width, 1, bias=True)
        norm(f"{name}.squeeze_block.ln", width)
        conv(f"{name}.expand_block.conv_project", width, channels // 4, 1, bias=True)
        norm(f"{name}.expand_block.bn", channels // 4, batch=True)
        transformer(f"{name}.trans_block")
    norm("trans_norm", width)
    if heads == "imagenet":
        linear("trans_cls_head", width, classes)
        linear("conv_cls_head", widths[2], classes)
        return state
    linear("trans_cls_head", width, classes + 1)
    conv("conv_cls_head", widths[2], classes + 1, 3, bias=True)
    if heads == "bao":
        conv("classifier_x", widths[2], classes + 1, 3, bias=True)
        linear("label_enc", classes, widths[2])
    return state


def forward(state, images, labels=None, *, heads):
    """Everything the published networks compute in eval mode, as a dict of named results."""
    depth = max(int(key.split(".")[0][11:]) for key in state if key.startswith("conv_trans_"))
    matrices = []

    def conv(name, x, **settings):
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **settings)

    def batch_norm(name, x, eps=1e-6):
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        x = (x - mean[:, None, None]) / (variance[:, None, None] + eps).sqrt()
        return x * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]

    def layer_norm(name, x, eps=1e-6):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + eps).sqrt()
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def gelu(x):
        return x * 0.5 * (1 + torch.erf(x / 2**0.5))

    def bottleneck(name, x, *, stride=1, extra=None):
        y = batch_norm(f"{name}.bn1", conv(f"{name}.conv1", x)).relu()
        y = y if extra is None else y + extra
        inner = batch_norm(f"{name}.bn2", conv(f"{name}.conv2", y, stride=stride, padding=1)).relu()
        y = batch_norm(f"{name}.bn3", conv(f"{name}.conv3", inner))
        if f"{name}.residual_conv.weight" in state:
            x = batch_norm(f"{name}.residual_bn", conv(f"{name}.residual_conv", x, stride=stride))
        return (y + x).relu(), inner

    def transformer(name, tokens):
        b, n, width = tokens.shape
        qkv = linear(f"{name}.attn.qkv", layer_norm(f"{name}.norm1", tokens))
        query, key, value = (
            part.reshape(b, n, heads, width // heads).transpose(1, 2) for part in qkv.split(width, dim=-1)
        )
        weights = (query @ key.transpose(-1, -2) / (width // heads) ** 0.5).softmax(-1)
        matrices.append(weights)
        attended = (weights @ value).transpose(1, 2).reshape(b, n, width)
        tokens = tokens + linear(f"{name}.attn.proj", attended)
        hidden = gelu(linear(f"{name}.mlp.fc1", layer_norm(f"{name}.norm2", tokens)))
        return tokens + linear(f"{name}.mlp.fc2", hidden)

    stem = batch_norm("bn1", conv("conv1", images, stride=2, padding=3), eps=1e-5).relu()
    stem = F.max_pool2d(stem, 3, stride=2, padding=1)
    x, _ = bottleneck("conv_1", stem)
    patches = conv("trans_patch_conv", stem, stride=4)
    b, width, rows, columns = patches.shape
    tokens = torch.cat([state["cls_token"].repeat(b, 1, 1), patches.flatten(2).mT], dim=1)
    tokens = transformer("trans_1", tokens)
    third = depth // 3
    for index in range(2, depth + 1):
        name = f"conv_trans_{index}"
        x, inner = bottleneck(f"{name}.cnn_block", x, stride=2 if index in (third + 1, 2 * third + 1) else 1)
        cells = inner.shape[-1] // columns
        down = F.avg_pool2d(conv(f"{name}.squeeze_block.conv_project", inner), cells).flatten(2).mT
        down = gelu(layer_norm(f"{name}.squeeze_block.ln", down))
        joined = torch.cat([tokens[:, :1], down], dim=1)
        tokens = transformer(f"{name}.trans_block", joined + tokens)
        up = tokens[:, 1:].mT.reshape(b, width, rows, columns)
        up = batch_norm(f"{name}.expand_block.bn", conv(f"{name}.expand_block.conv_project", up)).relu()
        up = up.repeat_interleave(cells, -1).repeat_interleave(cells, -2)
        x, _ = bottleneck(f"{name}.fusion_block", x, extra=up)

    class_maps = conv("conv_cls_head", x, padding=1)
    token_logits = linear("trans_cls_head", layer_norm("trans_norm", tokens, eps=1e-5)[:, 0])
    spread = torch.stack(matrices).mean(2).sum(0)[:, 1:, 1:]

    def refine(maps):
        return torch.einsum("bqk,bck->bcq", spread, maps.flatten(2)).reshape(maps.shape)

    results = {
        "class_maps": class_maps[:, 1:],
        "token_logits": token_logits[:, 1:],
        "refined": refine(class_maps)[:, 1:],
    }
    if labels is not None:
        activations = conv("classifier_x", x * linear("label_enc", labels)[:, :, None, None], padding=1)
        results["activations"] = activations
        results["background"] = refine(activations)[:, :1]
    return results
