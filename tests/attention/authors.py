"""The modules that must equal the authors' code: their options, the authors' names of their parameters, one pass.

``test_attention_oracles.py`` requires equality, ``test_attention_near_misses.py`` its absence.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from oracles import Oracle
from saccade import create

__all__ = ["BY_OTHERS", "ELSEWHERE", "MODULES", "SK", "options_of", "reproduce"]

SE = {"fc.0": "squeeze", "fc.2": "excite"}
CBAM = {
    "ChannelGate.mlp.1": "mlp.0",
    "ChannelGate.mlp.3": "mlp.2",
    "SpatialGate.spatial.conv": "conv",
    "SpatialGate.spatial.bn": "bn",
}
BAM = {
    "channel_att.gate_c.gate_c_fc_0": "channel.0",
    "channel_att.gate_c.gate_c_bn_1": "channel.1",
    "channel_att.gate_c.gate_c_fc_final": "channel.3",
    "spatial_att.gate_s.gate_s_conv_reduce0": "spatial.0",
    "spatial_att.gate_s.gate_s_bn_reduce0": "spatial.1",
    "spatial_att.gate_s.gate_s_conv_di_0": "spatial.3",
    "spatial_att.gate_s.gate_s_bn_di_0": "spatial.4",
    "spatial_att.gate_s.gate_s_conv_di_1": "spatial.6",
    "spatial_att.gate_s.gate_s_bn_di_1": "spatial.7",
    "spatial_att.gate_s.gate_s_conv_final": "spatial.9",
}
COORD = {"conv1": "squeeze", "bn1": "bn", "conv_h": "rows", "conv_w": "columns"}
GC = {"conv_mask.bias": None, "conv_mask": "mask"}  # a bias in front of a softmax; its gradient is zero
GC |= {f"channel_add_conv.{n}": f"add.{n}" for n in (0, 1, 3)} | {
    f"channel_mul_conv.{n}": f"scale.{n}" for n in (0, 1, 3)
}
TRIPLET = {
    f"{theirs}.conv.{part}": f"{ours}.{part}"
    for theirs, ours in {"cw": "height", "hc": "width", "hw": "channel"}.items()
    for part in ("conv", "bn")
}
SA = {
    "cweight": "channel_weight",
    "cbias": "channel_bias",
    "sweight": "spatial_weight",
    "sbias": "spatial_bias",
    "gn.weight": "norm_weight",
    "gn.bias": "norm_bias",
}
SAGAN = {"gamma": "gamma", "query": "key", "key": "query", "value": "value"}  # the softmax runs over their query
EMCA = {
    "ECA_excitation_local.0": "local.conv",
    "ECA_excitation_global_stage.0": "stage.conv",
    "stage_in_fusion.0": "take_in",
    "out_fusion.0": "put_out",
}
EMCA_FIRST = {f"{theirs}.weight": None for theirs in EMCA} | {"ECA_excitation_local.0.weight": "local.conv.weight"}
DCN = {"weight": "weight", "bias": "bias", "conv_offset_mask": "offset"}
DAT = {
    "conv_offset.0": "near",
    "conv_offset.1.norm": "norm",
    "conv_offset.3": "move",
    "proj_q": "query",
    "proj_k.bias": None,  # the same number for all keys of a query; its gradient is zero
    "proj_k": "key",
    "proj_v": "value",
    "proj_out": "project",
}
DAT_TABLE, DAT_LOG = {"rpe_table": "table"}, {"rpe_table.0": "distance.0", "rpe_table.2": "distance.2"}
NL = {"conv_phi.bias": None, "conv_theta": "theta", "conv_phi": "phi", "conv_g": "g", "conv_out": "out", "bn": "bn"}
PAM = {"gamma": "position.gamma", "key_conv.bias": None}
PAM |= {f"{part}_conv": f"position.{part}" for part in ("query", "key", "value")}
CPAM = {"cpam_dec.scale": "position.scale", "cpam_dec.conv_key.bias": None}
CPAM |= {f"cpam_dec.conv_{part}": f"position.{part}" for part in ("query", "key", "value")}
CPAM |= {f"cpam_enc.conv{n + 1}.{i}": f"position.centers.{n}.{i}" for n in range(4) for i in range(2)}
CCAM = {"ccam_dec.scale": "channel.scale", "ccam_enc.0": "channel.centers.0", "ccam_enc.1": "channel.centers.1"}
A2 = {"convB.bias": None, "convA": "feature", "convB": "gather", "convV": "distribute", "conv_reconstruct": "out"}
CC = {"key_conv.bias": None, "gamma": "gamma"} | {f"{part}_conv": part for part in ("query", "key", "value")}
SPM = {"conv1": "rows", "bn1": "rows_bn", "conv2": "columns", "bn2": "columns_bn", "conv3": "mix"}
MPM = {
    f"{theirs}.{n}": f"{ours}.{n}"
    for theirs, ours in {
        "conv1_1": "near_in", "conv1_2": "far_in", "conv2_0": "near", "conv2_1": "fine", "conv2_2": "coarse",
        "conv2_3": "columns", "conv2_4": "rows", "conv2_5": "near_out", "conv2_6": "far_out", "conv3": "join",
    }.items()
    for n in (0, 1)
}  # fmt: skip
GSOP = {"conv_for_DR": "reduce", "bn_for_DR": "reduce_bn", "row_bn": "row_bn", "row_conv_group": "row"}
GSOP |= {"fc_adapt_channels": "expand"}
GSOP_POS = {"conv_for_DR_spatial": "reduce", "bn_for_DR_spatial": "reduce_bn", "row_bn_for_spatial": "row_bn"}
GSOP_POS |= {"row_conv_group_for_spatial": "row", "fc_adapt_channels_for_spatial": "expand"}
SK = {"conv2": "near.0", "bn2": "near.1", "conv2g": "far.0", "bn2g": "far.1"}
SK |= {"conv_fc1": "squeeze.0", "bn_fc1": "squeeze.1", "conv_fc2": "select"}
# Oracle: mechanism, its options, the official name of each layer (or parameter) and ours, None where we have none.
MODULES: dict[str, tuple[str, dict[str, Any], Any]] = {
    "se_nobias": ("se", {"bias": False}, SE),
    "se_bias": ("se", {}, SE),
    "eca": ("eca", {"kernel_size": 3}, {"conv": "conv"}),
    "cbam": ("cbam", {}, CBAM),
    "cbam_train": ("cbam", {}, CBAM),
    "bam": ("bam", {}, BAM),
    "bam_train": ("bam", {}, BAM),
    "coord": ("coord", {}, COORD),
    "coord_train": ("coord", {}, COORD),
    "coord_mbv2": ("coord", {}, {"conv1": "squeeze", "bn1": "bn", "conv2": "rows", "conv3": "columns"}),
    "gc": ("gc", {}, GC),
    "gc_mul_add": ("gc", {"rd_ratio": 1 / 4, "fuse_scale": True}, GC),
    "triplet": ("triplet", {}, TRIPLET),
    "triplet_train": ("triplet", {}, TRIPLET),
    "triplet_k3": ("triplet", {"kernel_size": 3}, TRIPLET),
    "triplet_nospatial": ("triplet", {"no_spatial": True}, TRIPLET),
    "sa": ("sa", {"groups": 8}, SA),
    "sagan": ("self_attention", {}, SAGAN),
    "simam": ("simam", {}, {}),
    "sk_conv": ("sk", {"variant": "fair"}, SK),
    "sk_conv_train": ("sk", {"variant": "fair"}, SK),
    "nonlocal": ("nl", {}, NL),
    "nonlocal_train": ("nl", {}, NL),
    "nonlocal_pool": ("nl", {"pool": True}, NL),
    "nonlocal_dot": ("nl", {"instantiation": "dot_product"}, NL | {"conv_phi.bias": "phi.bias"}),
    "danet_pam": ("danet", {"channel": False}, PAM),
    "danet_cam": ("danet", {"position": False}, {"gamma": "channel.gamma"}),
    "dran_cpam": ("dra", {"channel": False}, CPAM),
    "dran_cpam_train": ("dra", {"channel": False}, CPAM),
    "dran_ccam": ("dra", {"position": False}, CCAM),
    "dran_ccam_train": ("dra", {"position": False}, CCAM),
    "a2": ("a2", {"descriptors": 12}, A2),
    "a2_noreconstruct": ("a2", {}, A2),
    "emca_eca": ("emca", {"previous": 1}, EMCA),
    "emca_eca_firstblock": ("emca", {}, EMCA_FIRST),
    "cc_r1": ("cc", {"recurrence": 1}, CC),
    "cc_r2": ("cc", {}, CC),
    "spm": ("spm", {}, SPM),
    "spm_train": ("spm", {}, SPM),
    "mpm": ("mpm", {}, MPM),
    "mpm_train": ("mpm", {}, MPM),
    "gsop": ("gsop", {}, GSOP),
    "gsop_train": ("gsop", {}, GSOP),
    "gsop_pos": ("gsop", {"variant": "position"}, GSOP_POS),
    "dcn_v2_pack": ("dcn2", {"out_channels": 12, "bias": True}, DCN),
    "dat": ("dat", {"num_heads": 4, "groups": 2, "size": (12, 10)}, DAT | DAT_TABLE),
    "dat_range": ("dat", {"num_heads": 4, "groups": 2, "offset_range": 2.0, "size": (12, 10)}, DAT | DAT_TABLE),
    "dat_logcpb": (
        "dat",
        {"num_heads": 4, "groups": 2, "stride": 1, "kernel_size": 3, "position": "log"},
        DAT | DAT_LOG,
    ),
    "dat_nope": ("dat", {"num_heads": 4, "groups": 2, "kernel_size": 4, "position": "none"}, DAT),
    "srm": ("srm", {}, {"cfc": "weight", "bn": "bn"}),
    "srm_train": ("srm", {}, {"cfc": "weight", "bn": "bn"}),
    "sge": ("sge", {"groups": 8}, {"weight": "weight", "bias": "bias"}),
    "ge_theta_srmrepo": ("ge", {"bias": True, "size": (7, 7)}, {"conv.0": "gather.0", "conv.1": "gather.1"}),
}
# Of these the authors' y is without the x that the mechanism adds.
WITHOUT_X = {"a2"}
# Of these it is what enters the last layer.
WITHOUT_LAST = {"a2_noreconstruct"}
# The best known code, by others than the mechanism's authors: equality with it is no equality with theirs.
BY_OTHERS = {"a2", "dcn2", "ge", "nl", "se", "self_attention"}
# Oracles of more than a module, or of an operator: how their names begin, and the test that reads them.
ELSEWHERE = {"sk_bottleneck": "attention/test_selective_kernel.py", "deform_conv2d_": "ops/deform/test_convolution.py"}


def _ours(name: str, layers: Mapping[str, str | None]) -> str | None:
    """Return our name of the authors' ``name``, None where we have no such parameter."""
    if name in layers:
        return layers[name]
    layer, _, last = name.rpartition(".")
    return f"{layers[layer]}.{last}"


def options_of(oracle: Oracle) -> dict[str, Any]:
    """Return the options that the module needs for this oracle."""
    sized = {"descriptors": len(oracle.of("param")["convB.weight"])} if oracle.name in WITHOUT_LAST else {}
    return {**MODULES[oracle.name][1], **oracle.meta.get("saccade_options", {}), **sized}


def _places(module: Any, x: Tensor) -> dict[str, Tensor]:
    """Return where deformable attention samples the map, and the grid that it moves those places from."""
    seen: list[Tensor] = []
    own_range = module.range
    hook = module.tap.register_forward_hook(lambda _module, _args, places: seen.append(places))
    with torch.no_grad():
        module(x)
        module.range = 0.0  # no place moves
        module(x)
    module.range = own_range
    hook.remove()
    return dict(zip(("pos", "ref"), seen, strict=True))


def reproduce(
    oracle: Oracle, options: Mapping[str, Any], change: Callable[[nn.Module], nn.Module] = lambda module: module
) -> dict[str, Tensor]:
    """Run the mechanism on the numbers of an oracle, forward and backward, and return the results by the file's keys.

    Args:
        oracle: the numbers.
        options: of the mechanism.
        change: is applied to the loaded module before it runs.

    Raises:
        RuntimeError: the module has a parameter that the authors' lacks, or one of another size.
        ValueError: the mechanism refuses the options.

    """
    name, _, layers = MODULES[oracle.name]
    x = oracle.arrays["x"].clone().requires_grad_()
    module: Any = create(name, x.shape[1], **options).double()
    if oracle.name in WITHOUT_LAST:
        module.out = nn.Identity()
    ours = {theirs: _ours(theirs, layers) for theirs in (*oracle.of("param"), *oracle.of("buffer"))}
    own = module.state_dict()
    state = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    for theirs, value in (oracle.of("param") | oracle.of("buffer")).items():
        own_name = ours[theirs]
        if own_name in own:
            state[own_name] = value.reshape(own[own_name].shape)
    module.load_state_dict(state)
    module = change(module.train(oracle.meta["mode"] == "train"))

    found = {f"aux:{key}": value for key, value in _places(module, x).items()} if oracle.of("aux") else {}
    inputs = {key: value.clone().requires_grad_() for key, value in oracle.of("input").items()}
    prev = inputs.get("prev")  # what a host would hand on
    if oracle.name in WITHOUT_LAST:
        y = module.context(x)
    elif prev is not None and module.previous.count:
        y = x * module.gate(x, prev)
    else:
        y = module(x) - x if oracle.name in WITHOUT_X else module(x)
    y.backward(oracle.arrays["cotangent"])
    found |= {"y": y, "grad_x": x.grad}
    found |= {f"grad_input:{key}": torch.zeros_like(t) if t.grad is None else t.grad for key, t in inputs.items()}
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    for theirs, own_name in ours.items():
        if own_name is None:
            found[f"grad:{theirs}"] = torch.zeros_like(oracle.of("param")[theirs])
        elif own_name in buffers:
            found[f"buffer_after:{theirs}"] = buffers[own_name]
        elif own_name in parameters and (grad := parameters[own_name].grad) is not None:
            found[f"grad:{theirs}"] = grad
    return found
