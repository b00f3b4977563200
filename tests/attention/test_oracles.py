"""Equality with the authors' own code: output, gradient of the input, gradients of all parameters, in float64.

The tensors are read from ``$SACCADE_ORACLES``; each file holds one forward and backward of an official module with
random parameters and statistics.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from saccade import create, list_mechanisms, spec
from saccade.catalog import shape

FOLDER = os.environ.get("SACCADE_ORACLES", "")
pytestmark = pytest.mark.skipif(not FOLDER, reason="SACCADE_ORACLES is not set")

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
ORACLES = {
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
# Mechanisms compared with code by others than their authors: equality with it is no equality with theirs.
BY_OTHERS = {"a2", "dcn2", "ge", "nl", "se", "self_attention"}
# What no module (B, C, H, W) -> (B, C, H, W) of one input can express.
CANNOT = {
    "a2_noreconstruct": "c_m channels come out, not C",
    "sk_bottleneck": "a whole block; test_sk.py builds it around the mechanism",
}
# Operators; tests/ops holds them against these.
OPERATORS = "deform_conv2d_"


def _tensors(oracle):
    with np.load(Path(FOLDER, f"{oracle}.npz")) as archive:
        meta = json.loads(str(archive["meta"]))
        return meta, {key: torch.from_numpy(archive[key]) for key in archive.files if key != "meta"}


def _ours(name, layers):
    """Our name of the authors' ``name``; None where we have no such parameter."""
    if name in layers:
        return layers[name]
    layer, _, last = name.rpartition(".")
    return f"{layers[layer]}.{last}"


def _output(module, x, prev=None):
    """What the module makes of x; ``prev`` is what a host would hand on to it."""
    return module(x) if prev is None or not module.previous.count else x * module.gate(x, prev)


def _disagreement(oracle, change=lambda module: module, options=()):
    """The largest absolute difference of each tensor, ours against the authors'; infinite where ours is missing."""
    name, own_options, layers = ORACLES[oracle]
    meta, found = _tensors(oracle)
    module = create(name, found["x"].shape[1], **{**own_options, **dict(options)}).double()
    parts = {key: key.partition(":") for key in found}
    named = {key: _ours(n, layers) for key, (kind, _, n) in parts.items() if kind in ("param", "buffer")}
    left_out = {parts[key][2] for key, ours in named.items() if ours is None}
    assert left_out <= set(meta["zero_grad_params"])
    state = {ours: found[key] for key, ours in named.items() if ours is not None}
    own = module.state_dict()
    assert {n for n in own if not n.endswith("num_batches_tracked")} <= set(state)
    module.load_state_dict({n: state[n].reshape(value.shape) if n in state else value for n, value in own.items()})
    module = change(module.train(meta["mode"] == "train"))

    x = found["x"].clone().requires_grad_()
    given = {n: found[key].clone().requires_grad_() for key, (kind, _, n) in parts.items() if kind == "input"}
    y = _output(module, x, **given)
    if oracle in WITHOUT_X:
        y = y - x
    (y * found["cotangent"]).sum().backward()
    values = {"y": y, "grad_x": x.grad}
    values |= {f"grad_input:{n}": torch.zeros_like(t) if t.grad is None else t.grad for n, t in given.items()}
    values |= {f"grad:{n}": p.grad for n, p in module.named_parameters()}
    values |= {f"buffer_after:{n}": b for n, b in module.named_buffers()}
    values |= {f"grad:{n}": torch.zeros(()) for n in left_out}
    expected = {"y": found["y"], "grad_x": found["grad_x"]}
    for key, (kind, _, n) in parts.items():
        if kind in ("grad", "buffer_after"):
            expected[f"{kind}:{_ours(n, layers) or n}"] = found[key]
        elif kind == "grad_input":
            expected[key] = found[key]
    return {
        key: (values[key].reshape(-1) - e.reshape(-1)).abs().max().item() if key in values else float("inf")
        for key, e in expected.items()
    }


def test_every_oracle_is_expressed_or_has_its_reason():
    found = {path.stem for path in Path(FOLDER).glob("*.npz")}
    operators = {stem for stem in found if stem.startswith(OPERATORS)}
    lists = [set(ORACLES), set(CANNOT), operators]
    assert sorted(stem for each in lists for stem in each) == sorted(found)  # each of them once
    assert len(operators) == 10


def test_the_facts_name_the_repository_of_each_oracle_and_no_other():
    stated = {name: {entry.partition(" if ")[0] for entry in spec(name).code} for name in list_mechanisms()}
    compared = {}
    for oracle, (name, options, _) in ORACLES.items():
        repository = _tensors(oracle)[0]["repo"].partition(" ")[0]
        assert spec(name).equals(shape(name, options)) == [repository], oracle
        compared.setdefault(name, set()).add(repository)
    assert compared == {name: repositories for name, repositories in stated.items() if repositories}


def test_the_evidence_is_that_of_the_code_which_the_default_options_equal():
    evidence = {name: spec(name).evidence for name in list_mechanisms()}
    equal = {name for name in evidence if spec(name).equals(shape(name, {}))}
    assert {name for name, word in evidence.items() if word == "oracle"} == equal - BY_OTHERS
    assert {name for name, word in evidence.items() if word == "port"} <= equal & BY_OTHERS


@pytest.mark.parametrize("oracle", ORACLES)
def test_equals_the_authors_code(oracle):
    off = _disagreement(oracle)
    name, options, _ = ORACLES[oracle]
    assert {"y", "grad_x", *(f"grad:{n}" for n, _ in create(name, 64, **options).named_parameters())} <= set(off)
    assert max(off.values()) < 1e-9, off


def test_the_trained_statistics_are_compared_too():
    assert {"buffer_after:bn.running_mean", "buffer_after:bn.running_var"} <= set(_disagreement("cbam_train"))


def _swapped(module):
    module.conv.weight.data = module.conv.weight.data.flip(1)  # [mean; max] in place of [max; mean]
    return module


def _common_momentum(module):
    module.bn.momentum = 0.1
    return module


def _mean_alone(module):
    class Mean(type(module)):
        def gate(self, x):
            return super().gate(x.mean((2, 3), keepdim=True).expand_as(x))

    module.__class__ = Mean
    return module


def _sum_of_branches(module):
    module.product = False
    return module


def _taps_swapped(module):
    module.take_in.weight.data = module.take_in.weight.data.flip(1)  # own vector first
    return module


def _unfused(module):
    module.put_out.weight.data[0, 1] = 0.0
    return module


def _local_kernel_reversed(module):
    _reversed_kernel(module.local)
    return module


def _reversed_kernel(module):
    module.conv.weight.data = module.conv.weight.data.flip(2)
    return module


def _rows_and_columns_swapped(module):
    module.rows, module.columns = module.columns, module.rows
    return module


def _height_and_width_swapped(module):
    module.height, module.width = module.width, module.height
    return module


def _uniform_mask(module):
    torch.nn.init.zeros_(module.mask.weight)
    return module


def _no_norm(module):
    module.add[1] = torch.nn.Identity()
    return module


def _halves_swapped(module):
    module.channel_weight, module.spatial_weight = module.spatial_weight, module.channel_weight
    module.channel_bias, module.spatial_bias = module.spatial_bias, module.channel_bias
    return module


def _unshuffled(module):
    class Unshuffled(type(module)):
        def forward(self, x):
            return x * self.gate(x)

    module.__class__ = Unshuffled
    return module


def _query_and_key_swapped(module):
    module.query, module.key = module.key, module.query
    return module


def _scaled(module):
    module.query.weight.data = module.query.weight.data * 8**-0.5
    return module


def _across_and_down_swapped(module):
    order = [tap ^ 1 if tap < 18 else tap for tap in range(27)]
    for parameter in module.offset.parameters():
        parameter.data = parameter.data[order]
    return module


def _unclamped(module):
    class Unclamped(type(module)):
        def _places(self, query):
            self.range = 0.0
            return super()._places(query)

    module.__class__ = Unclamped
    return module


def _columns_before_rows(module):
    module.move.weight.data = module.move.weight.data.flip(0)
    return module


def _branches_swapped(module):
    module.select.weight.data = module.select.weight.data.roll(32, 0)
    return module


def _bottleneck_without_relu(module):
    module.squeeze[2] = torch.nn.Identity()
    return module


def _biased_variance(module):
    class Biased(type(module)):
        def gate(self, x):
            d = (x - x.mean((2, 3), keepdim=True)).square()
            return (d / (4 * (d.mean((2, 3), keepdim=True) + self.e_lambda)) + 0.5).sigmoid()

    module.__class__ = Biased
    return module


def _pixels_swapped(module):
    query, key = module.position.query, module.position.key
    query.weight, key.weight = key.weight, query.weight
    return module


def _unscaled(module):
    for p in module.theta.parameters():
        p.data = p.data * module.theta.out_channels**0.5
    return module


def _alike(module):
    """Softmax of the products themselves, as the paper prints it."""
    channel = module.channel

    def forward(x):
        rows = x.flatten(2)
        centers = channel.centers(x).flatten(2) if hasattr(channel, "centers") else rows
        factor = channel.scale if hasattr(channel, "centers") else channel.gamma
        return factor * ((rows @ centers.mT).softmax(-1) @ centers).view_as(x)

    channel.forward = forward
    return module


def _places_mixed_up(module):
    module.position.centers = module.position.centers[::-1]
    return module


def _roles_swapped(module):
    module.gather.weight, module.distribute.weight = module.distribute.weight, module.gather.weight
    return module


def _strips_swapped(module):
    module.rows.weight.data, module.columns.weight.data = (
        module.columns.weight.data.mT.contiguous(),
        module.rows.weight.data.mT.contiguous(),
    )
    return module


def _windows_swapped(module):
    module.sizes = module.sizes[::-1]
    return module


def _uncentred(module):
    module.reduce_bn.register_forward_hook(lambda _module, _args, z: z + 1)
    return module


def _mean_and_spread_swapped(module):
    module.weight.data = module.weight.data.flip(1)
    return module


def _biased_spread(module):
    class Biased(type(module)):
        def gate(self, x):
            s = (x * x.mean((2, 3), keepdim=True)).unflatten(1, (self.groups, -1)).sum(2)
            s = (s - s.mean((2, 3), keepdim=True)) / (s.std((2, 3), correction=0, keepdim=True) + 1e-5)
            return (s * self.weight[:, None, None] + self.bias[:, None, None]).sigmoid()

    module.__class__ = Biased
    return module


def _kernel_upside_down(module):
    module.gather[0].weight.data = module.gather[0].weight.data.flip(2)
    return module


@pytest.mark.parametrize(
    ("oracle", "change", "options", "tensor"),
    [
        ("cc_r1", lambda module: module, {"recurrence": 2}, "y"),
        ("cc_r2", lambda module: module, {"recurrence": 1}, "y"),
        ("cc_r1", _query_and_key_swapped, {}, "y"),
        ("spm", _strips_swapped, {}, "y"),
        ("spm_train", lambda module: module.eval(), {}, "buffer_after:rows_bn.running_var"),
        ("mpm", _windows_swapped, {}, "y"),
        ("mpm_train", lambda module: module.eval(), {}, "buffer_after:fine.1.running_mean"),
        ("gsop", lambda module: module, {"stride": 1}, "y"),
        ("gsop_train", lambda module: module.eval(), {}, "y"),
        ("gsop_pos", _uncentred, {}, "y"),
        ("se_bias", lambda module: module, {"bias": False}, "y"),
        ("eca", _reversed_kernel, {}, "y"),
        ("cbam", _swapped, {}, "y"),
        ("cbam", _mean_alone, {}, "y"),
        ("cbam", lambda module: module.train(), {}, "y"),
        ("cbam_train", lambda module: module.eval(), {}, "y"),
        ("cbam_train", _common_momentum, {}, "buffer_after:bn.running_var"),
        ("bam", _sum_of_branches, {}, "y"),
        ("bam", lambda module: module, {"dilation": 2}, "y"),
        ("bam_train", lambda module: module.eval(), {}, "buffer_after:channel.1.running_var"),
        ("coord", _rows_and_columns_swapped, {}, "y"),
        ("coord_mbv2", _rows_and_columns_swapped, {}, "y"),
        ("coord_train", lambda module: module.eval(), {}, "y"),
        ("gc", _uniform_mask, {}, "y"),
        ("gc", _no_norm, {}, "y"),
        ("gc_mul_add", lambda module: module, {"fuse_scale": False}, "y"),
        ("gc_mul_add", lambda module: module, {"fuse_add": False}, "y"),
        ("triplet", _height_and_width_swapped, {}, "y"),
        ("triplet", lambda module: module, {"no_spatial": True}, "y"),
        ("sa", _halves_swapped, {}, "y"),
        ("sa", _unshuffled, {}, "y"),
        ("sagan", _query_and_key_swapped, {}, "y"),
        ("sagan", _scaled, {}, "y"),
        ("dat", _unclamped, {}, "y"),
        ("dat", _columns_before_rows, {}, "y"),
        ("dat_range", lambda module: module, {"offset_range": 1.0}, "y"),
        ("dat_range", lambda module: module, {"offset_range": -1.0}, "grad:near.weight"),
        ("emca_eca", _taps_swapped, {}, "y"),
        ("emca_eca", lambda module: module, {"shared": True}, "y"),
        ("emca_eca", _unfused, {}, "grad_input:prev"),
        ("emca_eca_firstblock", _local_kernel_reversed, {}, "y"),
        ("srm", _mean_and_spread_swapped, {}, "y"),
        ("srm", lambda module: module, {"eps": 1.0}, "y"),
        ("srm_train", lambda module: module.eval(), {}, "buffer_after:bn.running_var"),
        ("sge", _biased_spread, {}, "y"),
        ("ge_theta_srmrepo", _kernel_upside_down, {}, "y"),
        ("simam", _biased_variance, {}, "y"),
        ("sk_conv", _branches_swapped, {}, "y"),
        ("sk_conv", _bottleneck_without_relu, {}, "y"),
        ("sk_conv", lambda module: module, {"dilation": 2}, "y"),
        ("sk_conv_train", lambda module: module.eval(), {}, "y"),
        ("simam", lambda module: module, {"e_lambda": 0.1}, "y"),
        ("nonlocal", _unscaled, {}, "y"),
        ("nonlocal", lambda module: module, {"pool": True}, "y"),
        ("nonlocal_train", lambda module: module.eval(), {}, "y"),
        ("nonlocal_pool", lambda module: module, {"pool": False}, "y"),
        ("nonlocal_dot", _unscaled, {}, "y"),
        ("danet_pam", _pixels_swapped, {}, "y"),
        ("danet_cam", _alike, {}, "y"),
        ("dran_cpam", _places_mixed_up, {}, "y"),
        ("dran_cpam_train", lambda module: module.eval(), {}, "y"),
        ("dran_ccam", _alike, {}, "y"),
        ("dran_ccam_train", lambda module: module.eval(), {}, "y"),
        ("a2", _roles_swapped, {}, "y"),
        ("dcn_v2_pack", _across_and_down_swapped, {}, "y"),
        ("dcn_v2_pack", lambda module: module, {"scale": 2.0}, "y"),
        ("dcn_v2_pack", lambda module: module, {"dilation": 2}, "y"),
    ],
)
def test_a_near_miss_does_not_agree(oracle, change, options, tensor):
    assert _disagreement(oracle, change, options)[tensor] > 1e-4
