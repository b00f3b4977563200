"""Parameter formulas against printed sizes and against the authors' own networks, counted."""

import copy

import pytest
import torchvision

from oracles import counts
from saccade import catalog
from saccade.cost.call import ForwardCall
from saccade.cost.thop import thop_counts
from saccade.surgery import plug, plugs, unplug

RESNET = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
WIDTH = {"resnet18": 1, "resnet34": 1, "resnet50": 4, "resnet101": 4}  # of a stage's map over 64, 128, 256, 512
PLAIN = {"resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032, "resnet101": 44_549_160}
PLAIN["mobilenet_v2"] = 3_504_872
MAPS = [(56, 56), (28, 28), (14, 14), (7, 7)]  # of the four stages, for pictures of 224×224
# Channels that leave the 17 blocks of MobileNetV2. All but the first block expand what they receive six times.
MOBILENET = [16, 24, 24, 32, 32, 32, *[64] * 4, *[96] * 3, *[160] * 3, 320]
EXPANDED = [6 * channels for channels in MOBILENET[:-1]]


def _sites(net, where):
    """(stage, channels) of each map at a position."""
    if net == "mobilenet_v2":
        return [(0, channels) for channels in {"residual": MOBILENET, "expanded": EXPANDED}[where]]
    stages = [(stage, 64 * 2**stage * WIDTH[net]) for stage in range(4)]
    if where == "residual":
        return [site for site, blocks in zip(stages, RESNET[net], strict=True) for _ in range(blocks)]
    return {
        "stage": stages,
        "stage[:-1]": stages[:-1],
        "stage[-2]": stages[-2:-1],
        "residual[last]": stages,
        "activated[last]": [(stage, channels // WIDTH[net]) for stage, channels in stages],
    }[where]


def _added(name, net, where, **options):
    """Parameters that a mechanism adds to a network; an option that is a list has one value a stage."""
    total = 0
    for stage, channels in _sites(net, where):
        here = {key: value[stage] if isinstance(value, list) else value for key, value in options.items()}
        total += catalog.spec(name).parameters(channels, catalog.resolve_options(name, here))
    return total


def _where(name, net):
    position = catalog.spec(name).position
    where = position.get(net.replace("_", ""), position["default"])
    return "residual" if where == "conv3x3" else where  # one map a block in either case


@pytest.mark.parametrize(
    ("name", "net", "options", "millions"),
    [
        # Counted with the authors' modules in torchvision's networks; the papers print the same, rounded.
        ("se", "resnet50", {"bias": False}, "28.072"),
        ("se", "resnet50", {}, "28.088"),
        ("se", "resnet18", {"bias": False}, "11.777"),
        ("se", "resnet101", {"bias": False}, "49.292"),
        ("se", "resnet101", {}, "49.327"),
        ("cbam", "resnet50", {}, "28.090"),
        ("cbam", "resnet18", {}, "11.779"),
        ("cbam", "resnet101", {}, "49.330"),
        ("eca", "resnet50", {"kernel_size": [3, 5, 5, 7]}, "25.557"),
        ("eca", "resnet18", {"kernel_size": [3, 5, 7, 7]}, "11.690"),
        # With the deformable kernels, which the article's own counts leave out.
        ("das", "resnet18", {}, "12.440"),
        ("das", "resnet50", {}, "36.908"),
        ("das", "resnet101", {}, "55.900"),
        ("bam", "resnet18", {}, "11.713"),
        ("bam", "resnet50", {}, "25.915"),
        ("bam", "resnet101", {}, "44.907"),
        ("gc", "resnet50", {}, "28.105"),
        ("gc", "resnet18", {}, "11.781"),
        ("gc", "resnet101", {}, "49.363"),
        ("coord", "resnet50", {}, "27.475"),
        ("coord", "resnet18", {}, "11.764"),
        ("coord", "resnet101", {}, "48.175"),
        ("coord", "mobilenet_v2", {}, "3.951"),
        ("triplet", "resnet50", {}, "25.562"),
        ("triplet", "resnet18", {}, "11.692"),
        ("triplet", "resnet101", {}, "44.559"),
        ("triplet", "mobilenet_v2", {}, "3.510"),
        ("triplet", "mobilenet_v2", {"kernel_size": 3}, "3.506"),
        ("simam", "resnet50", {}, "25.557"),
        ("sa", "resnet50", {}, "25.558"),
        ("sa", "resnet101", {}, "44.551"),
        # Counted with one bias more, which a softmax does not notice: 27.659.
        ("nl", "resnet50", {}, "27.658"),
        ("srm", "resnet50", {}, "25.617"),
        ("ge", "resnet50", {"extra_params": False, "size": MAPS}, "25.557"),
        ("ge", "resnet50", {"size": MAPS}, "31.107"),
        ("ge", "resnet50", {"use_mlp": True, "size": MAPS}, "33.638"),
        ("ge", "resnet18", {"size": MAPS}, "12.446"),
        ("ge", "resnet18", {"use_mlp": True, "size": MAPS}, "12.535"),
        ("ge", "resnet101", {"size": MAPS}, "53.546"),
        ("ge", "resnet101", {"use_mlp": True, "size": MAPS}, "58.323"),
        # Counted by us: printed are 11.148, 11.190 and 25.037 times 2^20.
        ("emca", "resnet18", {"previous": [0, 1, 1, 1]}, "11.690"),
        ("emca", "resnet18", {"previous": [0, 1, 1, 1], "att": "se", "shared": True}, "11.733"),
        ("emca", "resnet50", {"previous": [0, 1, 1, 1], "att": "se", "shared": True}, "26.253"),
    ],
)
def test_networks_have_the_counted_size(name, net, options, millions):
    assert f"{(PLAIN[net] + _added(name, net, _where(name, net), **options)) / 1e6:.3f}" == millions


@pytest.mark.parametrize(
    ("name", "row"),
    [
        pytest.param(name, row, id=f"{name} {row.net} {row.params}")
        for name in catalog.list_mechanisms("plug")
        for row in catalog.spec(name).published
        if row.params is not None and row.where == "paper" and "deformable kernels" not in row.note
    ],
)
def test_a_size_that_spec_quotes_is_ours(name, row):
    options = catalog.parse(f"{name}:{row.note}")[1] if "=" in row.note else {}
    size = PLAIN[row.net] + _added(name, row.net, _where(name, row.net), **options)
    if row.note == "size without the three modules in layer1":
        size -= 3 * catalog.spec(name).parameters(256, catalog.resolve_options(name, options))
    found = size / (2**20 if row.unit.startswith("2^20") else 10**6)
    assert abs(found - row.params) < 0.00501  # half a unit of the second decimal, where no more are printed


def test_the_two_numbers_that_are_known_exactly():
    # SE without bias: 2/16 of the sum of the squared channels over all blocks.
    blocks = 3 * 256**2 + 4 * 512**2 + 6 * 1024**2 + 3 * 2048**2
    assert _added("se", "resnet50", "residual", bias=False) == 2 * blocks // 16 == 2_514_944
    assert PLAIN["resnet50"] + _added("das", "resnet50", "stage") == 36_908_204


@pytest.mark.parametrize("row", catalog.spec("das").published, ids=lambda row: row.net)
def test_thop_gives_the_published_sizes_of_das(bare, row):
    host = plug(bare(row.net), "das", start="paper", input=(3, 64, 64))
    on_meta = copy.deepcopy(host).to("meta")  # counting needs no values; the network of the fixture keeps its own
    parameters, macs = thop_counts(ForwardCall.build(on_meta, (3, 224, 224), 1))
    assert f"thop gives {parameters / 1e6:.3f} and {macs / 1e9:.3f}" in row.note
    assert row.params is None or f"{parameters / 1e6:.2f}" == f"{row.params:.2f}"
    assert f"{macs / 1e9:.2f}" == f"{row.macs:.2f}"


@pytest.mark.parametrize(("net", "printed"), [("resnet18", 11.82), ("resnet50", 26.90), ("resnet101", 45.89)])
def test_das_has_the_printed_size_without_its_deformable_kernels(net, printed):
    channels = [64 * 2**stage * WIDTH[net] for stage in range(4)]
    kernels = sum(9 * int(0.2 * c) * c for c in channels)
    biases = sum(channels)  # of the deformable convolution; they go with the kernel
    without = PLAIN[net] + _added("das", net, "stage") - kernels - biases
    assert f"{without / 1e6:.2f}" == f"{printed:.2f}"


RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
# The authors' networks of counts_official.json: mechanism (None: a plain network), network, options.
OFFICIAL = {
    **{f"torchvision/{net}": (None, net, {}) for net in PLAIN},
    "ECANet/eca_resnet18 k=3577": ("eca", "resnet18", {"kernel_size": [3, 5, 7, 7]}),
    "ECANet/eca_resnet34 k=3357": ("eca", "resnet34", {"kernel_size": [3, 3, 5, 7]}),
    "ECANet/eca_resnet50 k=3557": ("eca", "resnet50", {"kernel_size": [3, 5, 5, 7]}),
    "ECANet/eca_resnet50 k=3333": ("eca", "resnet50", {"kernel_size": 3}),
    "ECANet/eca_resnet101 k=3357": ("eca", "resnet101", {"kernel_size": [3, 3, 5, 7]}),
    **{f"attention-module/ResNet{net[6:]} None": (None, net, {}) for net in RESNETS},
    **{f"attention-module/ResNet{net[6:]} CBAM": ("cbam", net, {}) for net in RESNETS},
    **{f"attention-module/ResNet{net[6:]} BAM": ("bam", net, {}) for net in RESNETS},
    **{f"triplet-attention/ResNet{net[6:]}": ("triplet", net, {}) for net in RESNETS},
    "triplet-attention/mobilenet_v2": ("triplet", "mobilenet_v2", {}),
    "SA-Net/sa_resnet50": ("sa", "resnet50", {}),
    "SA-Net/sa_resnet101": ("sa", "resnet101", {}),
    **{f"SimAM/{net} simam": ("simam", net, {}) for net in PLAIN},
    **{f"SimAM/{net} se(r16)": ("se", net, {"bias": False}) for net in RESNETS},
    **{f"PytorchInsight/{name}_{net}": (name, net, {}) for name in ("se", "cbam", "bam") for net in RESNETS},
    "PytorchInsight/sk_resnet18": (None, "resnet18", {}),  # plain: the file says TODO
    "PytorchInsight/sk_resnet34": (None, "resnet34", {}),
    "SRM/resnet50 se": ("se", "resnet50", {}),
    "SRM/resnet101 se": ("se", "resnet101", {}),
    **{f"PytorchInsight/sge_{net}": ("sge", net, {}) for net in RESNETS},
    **{f"SRM/{net} srm": ("srm", net, {}) for net in ("resnet50", "resnet101")},
    **{f"SRM/{net} ge": ("ge", net, {"bias": True, "size": MAPS}) for net in ("resnet50", "resnet101")},
    "CoordAttention/mbv2_ca": ("coord", "mobilenet_v2", {}),
    "GSoP/resnet50 GSoP-Net1 channel": ("gsop", "resnet50", {}),
    "GSoP/resnet101 GSoP-Net1 channel": ("gsop", "resnet101", {}),
    "GSoP/resnet50 GSoP-Net1 position": ("gsop", "resnet50", {"variant": "position"}),
}
# Of these the bodies differ from plain networks, or go by other rules than the stage: each has a test of its own.
# The same, of what stands in the place of the 3×3 convolutions: these networks have no norm behind it.
REPLACED = {
    "PytorchInsight/sk_resnet50": ("sk", "resnet50", {"variant": "fair"}),
    "PytorchInsight/sk_resnet101": ("sk", "resnet101", {"variant": "fair"}),
}
# With the flags of the authors' code every block has a module, that of stage n for n vectors: those of the last block
# of every earlier stage and of the stem, which are not what ours reads. The sizes are the same.
EMCA = {f"EMCA/eca_{net} (repo default flags)": net for net in ("resnet18", "resnet50", "resnet101")}
ECA_MOBILENET = "ECANet/eca_mobilenet_v2"
GSOP_NET2 = "GSoP/resnet50 GSoP-Net2 channel"
SPNETS = {
    f"SPNet/{net} deep_base=False spm_on={on} (no fc)": (net, on)
    for net in ("resnet50", "resnet101")
    for on in (False, True)
}
# Of networks whose mechanism is not here, or that could not be built.
ABSENT = (
    "SA-Net/sa_resnet101 (as shipped)", "SRM/resnet18",
)  # fmt: skip


def test_every_network_of_the_authors_is_compared_or_absent():
    absent = {key for key in counts() if key.startswith(ABSENT)}
    assert sorted([*OFFICIAL, *REPLACED, ECA_MOBILENET, GSOP_NET2, *SPNETS, *EMCA, *absent]) == sorted(counts())


@pytest.mark.parametrize("official", OFFICIAL)
def test_networks_have_exactly_the_size_of_the_authors(official):
    name, net, options = OFFICIAL[official]
    added = 0 if name is None else _added(name, net, _where(name, net), **options)
    assert PLAIN[net] + added == counts()[official]["params"]


@pytest.mark.parametrize("official", REPLACED)
def test_networks_with_replaced_convolutions_have_exactly_the_size_of_the_authors(official):
    name, net, options = REPLACED[official]
    size = PLAIN[net]
    for stage, blocks in enumerate(RESNET[net]):
        width = 64 * 2**stage
        unit = catalog.spec(name).parameters(width, catalog.resolve_options(name, options))
        size += blocks * (unit - 9 * width**2 - 2 * width)
    assert size == counts()[official]["params"]


@pytest.mark.parametrize("official", EMCA)
def test_emca_in_every_block_has_exactly_the_size_of_the_authors(official):
    net = EMCA[official]
    added = _added("emca", net, "residual", previous=[1, 2, 3, 4])
    assert PLAIN[net] + added == counts()[official]["params"]


def test_eca_on_mobilenet_has_exactly_the_size_of_the_authors():
    eca = catalog.spec("eca")
    added = 0
    for channels in MOBILENET:  # the authors take kernel 1 below 96 channels, 3 from there on
        added += eca.parameters(channels, catalog.resolve_options("eca", {"kernel_size": 1 if channels < 96 else 3}))
    assert PLAIN["mobilenet_v2"] + added == counts()[ECA_MOBILENET]["params"]


def test_gsop_net2_has_exactly_the_size_of_the_authors():
    # No attention in the last stage. In place of the classifier: 1×1 to 256 channels, a norm, the upper triangle of
    # their 256×256 covariance, 32 896 numbers, and a classifier of those.
    added = sum(catalog.spec("gsop").parameters(c, catalog.resolve_options("gsop", {})) for c in (256, 512, 1024))
    head = 2048 * 256 + 2 * 256 + (256 * 257 // 2 + 1) * 1000
    assert PLAIN["resnet50"] - 2049 * 1000 + added + head == counts()[GSOP_NET2]["params"]


@pytest.mark.parametrize("official", SPNETS)
def test_spnets_have_exactly_the_size_of_the_authors(official):
    # Without a classifier; the last unit of each stage and all three of the last, behind the 3×3 convolution.
    net, on = SPNETS[official]
    sites = [*_sites(net, "activated[last]"), (3, 512), (3, 512)] if on else []
    added = sum(catalog.spec("spm").parameters(c, catalog.resolve_options("spm", {})) for _, c in sites)
    assert PLAIN[net] - 2049 * 1000 + added == counts()[official]["params"]


@pytest.fixture(scope="module")
def bare():
    kept = {}

    def of(net):
        if net not in kept:
            kept[net] = torchvision.models.get_model(net, weights=None)
        return unplug(kept[net])

    return of


@pytest.mark.parametrize(
    ("name", "net", "sites", "parameters"),
    [
        # The totals are those of the authors' own networks; gc's is ours, without the 16 biases before its softmaxes.
        ("bam", "resnet18", 3, 11_712_503),
        ("bam", "resnet50", 3, 25_915_099),
        ("triplet", "resnet18", 8, 11_691_912),
        ("triplet", "mobilenet_v2", 17, 3_509_972),
        ("sa", "resnet50", 16, 25_557_740),
        ("simam", "resnet18", 8, 11_689_512),
        ("emca", "resnet18", 4, 11_689_512 + 3 + 3 * (2 * 5 + 4)),
        ("simam", "mobilenet_v2", 17, 3_504_872),
        ("coord", "mobilenet_v2", 16, 3_950_648),
        ("gc", "resnet50", 16, 28_105_032 - 16),
        ("nl", "resnet50", 1, 27_658_792 - 512),
        ("das", "mobilenet_v2", 5, 3_760_687),
        ("gsop", "resnet50", 4, 28_285_224),
        # One unit in the last stage where the authors have three: 31 674 088 - 2·(7·512² + 5·512).
        ("spm", "resnet50", 4, 27_998_952),
    ],
)
def test_plugged_networks_have_exactly_that_size(bare, name, net, sites, parameters):
    host = plug(bare(net), name, start="paper", input=(3, 64, 48))
    assert sum(p.numel() for p in host.parameters()) == parameters
    assert len(plugs(host)) == sites
    assert {row.position for row in plugs(host)} == {
        catalog.spec(name).position.get(net.replace("_", ""), catalog.spec(name).position["default"])
    }


@pytest.mark.parametrize(
    ("name", "printed", "sites", "parameters"),
    [
        # As many as the authors' network and a classifier of 2 049 000.
        (
            "spm",
            31.674,
            ["layer1.2", "layer2.3", "layer3.5", "layer4.0", "layer4.1", "layer4.2"],
            29_625_088 + 2_049_000,
        ),
        # 32.907 million with five biases in front of a softmax.
        ("a2", 33.00, ["layer2.1", "layer2.3", "layer3.1", "layer3.3", "layer3.5"], 32_905_256),
    ],
)
def test_networks_with_the_places_of_the_paper_have_exactly_that_size(bare, name, printed, sites, parameters):
    (row,) = (row for row in catalog.spec(name).published if row.where != "paper")
    host = plug(bare(row.net), name, where=row.where, start="paper", input=(3, 64, 48))
    assert [".".join(found.site.split(".")[:2]) for found in plugs(host)] == sites
    assert sum(p.numel() for p in host.parameters()) == parameters
    assert row.params == printed
    assert ("not reproduced" in row.note) == (abs(parameters / 1e6 - printed) > 0.005)
