"""Graphs of small networks, each of the parts that a published family is made of, built by hand."""

from collections.abc import Callable, Sequence

from compression.models.networks.graph import INPUT, Graph, Node
from compression.models.networks.value_shapes import SHAPES

Shape = tuple[int, ...]


class GraphBuilder:
    """Appends nodes; each method returns the name of the value that it makes."""

    def __init__(self, shape: Shape = (3, 8, 8)) -> None:
        self.shape = shape
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = {INPUT: (1, *shape)}
        self._constants: set[str] = set()

    def graph(self, output: str) -> Graph:
        return Graph(shape=self.shape, nodes=tuple(self.nodes), output=output)

    def op(self, op: str, *inputs: str, tensors: dict[str, Shape] | None = None, **attributes) -> str:
        node = Node(name=f"{op}_{len(self.nodes)}", op=op, inputs=inputs, attributes=attributes, tensors=tensors or {})
        self.nodes.append(node)
        given = [self.shapes[name] for name in inputs]
        if self._constants & {*inputs}:
            self.shapes[node.name] = attributes.get("shape") or max(given, key=len)
        else:
            self.shapes[node.name] = SHAPES[op](node, given)
        if op == "constant":
            self._constants.add(node.name)
        return node.name

    def conv(self, value: str, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, bias: bool = False) -> str:
        shape = (outputs, self.shapes[value][1] // groups, kernel, kernel)
        tensors = {"weight": shape} | ({"bias": (outputs,)} if bias else {})
        padding = (kernel // 2,) * 4
        return self.op("conv", value, tensors=tensors, stride=(stride, stride), padding=padding, dilation=(1, 1), groups=groups)

    def norm(self, value: str) -> str:
        roles = ("weight", "bias", "running_mean", "running_var")
        return self.op("batch_norm", value, tensors=dict.fromkeys(roles, (self.shapes[value][1],)), epsilon=1e-5)

    def conv_norm(self, value: str, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: str = "relu") -> str:
        value = self.norm(self.conv(value, outputs, kernel, stride, groups))
        return self.op(act, value) if act else value

    def linear(self, value: str, outputs: int, bias: bool = True) -> str:
        tensors = {"weight": (outputs, self.shapes[value][-1])} | ({"bias": (outputs,)} if bias else {})
        return self.op("linear", value, tensors=tensors)

    def layer_norm(self, value: str) -> str:
        return self.op("layer_norm", value, tensors=dict.fromkeys(("weight", "bias"), self.shapes[value][-1:]), epsilon=1e-5)

    def constant(self, *shape: int) -> str:
        return self.op("constant", tensors={"value": shape})

    def pool(self, value: str, op: str = "max_pool") -> str:
        window = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0, 0, 0), "ceil": 0}
        return self.op(op, value, **window, **({"dilation": (1, 1)} if op == "max_pool" else {"count_padding": 0}))

    def mean(self, value: str, keep: int = 0) -> str:
        return self.op("reduce_mean", value, axes=(2, 3), keep=keep)

    def reshape(self, value: str, *shape: int) -> str:
        return self.op("reshape", value, shape=shape)

    def transpose(self, value: str, *order: int) -> str:
        return self.op("transpose", value, order=order)

    def part(self, value: str, axis: int, start: int, end: int) -> str:
        return self.op("slice", value, axis=axis, start=start, end=end, step=1)

    def flat(self, value: str) -> str:
        _, channels, height, width = self.shapes[value]
        return self.reshape(value, 1, channels * height * width)

    def classified(self, value: str, labels: int = 5) -> Graph:
        """Return the graph with a mean over positions and a linear layer on it."""
        return self.graph(self.linear(self.mean(value), labels))


def resnet(blocks: Sequence[int] = (2, 2), width: int = 8, bottleneck: bool = False, groups: int = 1, size: int = 8) -> Graph:
    """ResNet (He et al. 2016); with groups, ResNeXt (Xie et al. 2017)."""
    net = GraphBuilder((3, size, size))
    value = net.conv_norm(INPUT, width)
    for stage, count in enumerate(blocks):
        inner = width * 2**stage
        outputs = inner * 4 if bottleneck else inner
        for number in range(count):
            stride = 2 if stage and not number else 1
            if bottleneck:
                branch = net.conv_norm(net.conv_norm(value, inner, 1), inner, 3, stride, groups)
                branch = net.conv_norm(branch, outputs, 1, act="")
            else:
                branch = net.conv_norm(net.conv_norm(value, inner, 3, stride), outputs, act="")
            if net.shapes[value] != net.shapes[branch]:
                value = net.conv_norm(value, outputs, 1, stride, act="")
            value = net.op("relu", net.op("add", branch, value))
    return net.classified(value)


def resnext() -> Graph:
    """Bottlenecks whose middle convolution has four groups."""
    return resnet((1, 1), 8, bottleneck=True, groups=4)


def padded_resnet() -> Graph:
    """A ResNet of CIFAR-10 whose shortcut has zeros for the further channels (He et al. 2016, option A)."""
    net = GraphBuilder()
    value = net.conv_norm(INPUT, 4)
    branch = net.conv_norm(net.conv_norm(value, 8, 3, 2), 8, act="")
    shortcut = net.op("pad", net.pool(value, "average_pool"), pads=(2, 2, 0, 0, 0, 0), value=0.0)
    return net.classified(net.op("relu", net.op("add", branch, shortcut)))


def densenet(blocks: Sequence[int] = (2, 2), growth: int = 4, size: int = 8) -> Graph:
    """DenseNet (Huang et al. 2017)."""
    net = GraphBuilder((3, size, size))
    value = net.conv(INPUT, 2 * growth)
    for number, count in enumerate(blocks):
        if number:
            value = net.op("relu", net.norm(value))
            value = net.pool(net.conv(value, net.shapes[value][1] // 2, 1), "average_pool")
        features = [value]
        for _ in range(count):
            value = net.op("concat", *features, axis=1)
            value = net.conv(net.op("relu", net.norm(value)), 4 * growth, 1)
            features.append(net.conv(net.op("relu", net.norm(value)), growth))
        value = net.op("concat", *features, axis=1)
    return net.classified(net.op("relu", net.norm(value)))


def mobilenet_v2() -> Graph:
    """Inverted residuals, one with a shortcut (Sandler et al. 2018)."""
    net = GraphBuilder()
    value = net.conv_norm(INPUT, 4)
    for outputs, stride in ((6, 2), (6, 1)):
        inner = 3 * net.shapes[value][1]
        branch = net.op("clip", net.conv_norm(value, inner, 1, act=""), low=0.0, high=6.0)
        branch = net.op("clip", net.conv_norm(branch, inner, 3, stride, inner, act=""), low=0.0, high=6.0)
        branch = net.conv_norm(branch, outputs, 1, act="")
        value = net.op("add", value, branch) if net.shapes[value] == net.shapes[branch] else branch
    return net.classified(net.conv_norm(value, 12, 1))


def squeeze_excite() -> Graph:
    """A gate for each channel, from the means of all (Hu et al. 2018)."""
    net = GraphBuilder()
    value = net.conv_norm(INPUT, 8)
    gate = net.op("relu", net.conv(net.mean(value, keep=1), 4, 1, bias=True))
    gate = net.op("sigmoid", net.conv(gate, 8, 1, bias=True))
    return net.classified(net.conv_norm(net.op("mul", value, gate), 6))


def shufflenet() -> Graph:
    """Units that split, convolve one half and shuffle (ShuffleNet V2, Ma et al. 2018)."""
    net = GraphBuilder()
    value = net.conv_norm(INPUT, 8)
    for _ in range(2):
        kept, branch = net.part(value, 1, 0, 4), net.part(value, 1, 4, 8)
        branch = net.conv_norm(net.conv_norm(branch, 4, 1), 4, 3, groups=4, act="")
        value = net.op("concat", kept, net.conv_norm(branch, 4, 1), axis=1)
        value = net.transpose(net.reshape(value, 1, 2, 4, 8, 8), 0, 2, 1, 3, 4)
        value = net.reshape(value, 1, 8, 8, 8)
    return net.classified(net.conv_norm(value, 10, 1))


def vgg() -> Graph:
    """Convolutions and pools, flattened into linear layers (Simonyan & Zisserman 2015)."""
    net = GraphBuilder()
    value = net.pool(net.op("relu", net.conv(INPUT, 6, bias=True)))
    value = net.pool(net.op("relu", net.conv(value, 8, bias=True)))
    return net.graph(net.linear(net.op("relu", net.linear(net.flat(value), 10)), 5))


def cross_stage_partial() -> Graph:
    """Half of the channels pass a bottleneck by, the other half is added to what it makes (Wang et al. 2020)."""
    net = GraphBuilder()
    value = net.conv_norm(INPUT, 12)
    passed, inner = net.part(value, 1, 0, 5), net.part(value, 1, 5, 12)
    inner = net.op("add", inner, net.conv_norm(net.conv_norm(inner, 6, 1), 7))
    return net.classified(net.conv_norm(net.op("concat", passed, inner, axis=1), 9, 1))


def vit(blocks: int = 2, width: int = 12, heads: int = 3, packed: bool = False, size: int = 8) -> Graph:
    """Vision transformer (Dosovitskiy et al. 2021). packed: queries, keys and values come of one linear layer."""
    net = GraphBuilder((3, size, size))
    patches = net.op(
        "conv",
        INPUT,
        tensors={"weight": (width, 3, 4, 4), "bias": (width,)},
        stride=(4, 4),
        padding=(0, 0, 0, 0),
        dilation=(1, 1),
        groups=1,
    )
    tokens = (size // 4) ** 2
    value = net.transpose(net.reshape(patches, 1, width, tokens), 0, 2, 1)
    first = net.op("expand", net.constant(1, 1, width), shape=(1, 1, width))
    value = net.op("add", net.op("concat", first, value, axis=1), net.constant(1, tokens + 1, width))
    for _ in range(blocks):
        value = net.op("add", value, _attention(net, net.layer_norm(value), heads, packed))
        inner = net.op("gelu", net.linear(net.layer_norm(value), 2 * width), approximate="none")
        value = net.op("add", value, net.op("mul", net.linear(inner, width), net.constant(width)))
    first = net.reshape(net.part(net.layer_norm(value), 1, 0, 1), 1, width)
    return net.graph(net.linear(first, 5))


def _attention(net: GraphBuilder, value: str, heads: int, packed: bool) -> str:
    """value: (rows, tokens, width). Its queries are normalized over each head's channels."""
    _, tokens, width = net.shapes[value]
    each = width // heads
    if packed:
        all_three = net.transpose(net.reshape(net.linear(value, 3 * width), 1, tokens, 3, heads, each), 0, 2, 3, 1, 4)
        parts = [net.reshape(net.part(all_three, 1, n, n + 1), 1, heads, tokens, each) for n in range(3)]
    else:
        parts = [net.transpose(net.reshape(net.linear(value, width), 1, tokens, heads, each), 0, 2, 1, 3) for _ in range(3)]
    query, key, given = parts
    scores = net.op("matmul", net.layer_norm(query), net.transpose(key, 0, 1, 3, 2))
    scores = net.op("add", net.op("mul", scores, net.constant()), net.constant(heads, tokens, tokens))
    mixed = net.op("matmul", net.op("softmax", scores, axis=-1), given)
    return net.linear(net.reshape(net.transpose(mixed, 0, 2, 1, 3), 1, tokens, width), width)


def convnext(*, responds: bool = False) -> Graph:
    """A block whose depthwise convolution is normalized over channels last, and its downsampling (Liu et al. 2022).

    responds: with a global response normalization (Woo et al. 2023).
    """
    net = GraphBuilder()
    value = net.conv(INPUT, 8, 4, 4)
    value = net.transpose(net.layer_norm(net.transpose(value, 0, 2, 3, 1)), 0, 3, 1, 2)
    branch = net.transpose(net.conv(value, 8, 7, groups=8), 0, 2, 3, 1)
    branch = net.op("gelu", net.linear(net.layer_norm(branch), 16), approximate="none")
    if responds:
        norms = net.op("sqrt", net.op("reduce_sum", net.op("mul", branch, branch), axes=(1, 2), keep=1))
        mean = net.op("mul", net.op("reduce_sum", norms, axes=(3,), keep=1), net.constant(1))
        response = net.op("mul", branch, net.op("div", norms, net.op("add", mean, net.constant(1))))
        response = net.op("add", net.op("mul", response, net.constant(1, 1, 1, 16)), net.constant(1, 1, 1, 16))
        branch = net.op("add", response, branch)
    branch = net.op("mul", net.linear(branch, 8), net.constant(8))
    value = net.op("add", value, net.transpose(branch, 0, 3, 1, 2))
    return net.graph(net.linear(net.layer_norm(net.mean(value)), 5))


def swin(heads: int = 2) -> Graph:
    """Attention within windows, which lie along the batch, and the merging of patches (Liu et al. 2021)."""
    net = GraphBuilder()
    width = 4 * heads
    value = net.transpose(net.conv(INPUT, width, 2, 2), 0, 2, 3, 1)  # with the padding: 5 x 5
    value = net.part(net.part(value, 1, 0, 4), 2, 0, 4)
    windows = net.transpose(net.reshape(net.layer_norm(value), 1, 2, 2, 2, 2, width), 0, 1, 3, 2, 4, 5)
    windows = net.reshape(windows, 4, 4, width)
    each = [net.transpose(net.reshape(net.linear(windows, width), 4, 4, heads, 4), 0, 2, 1, 3) for _ in range(3)]
    scores = net.op("matmul", each[0], net.transpose(each[1], 0, 1, 3, 2))
    scores = net.reshape(net.op("add", scores, net.constant(heads, 4, 4)), 1, 4, heads, 4, 4)
    scores = net.reshape(net.op("add", scores, net.constant(4, 1, 4, 4)), 4, heads, 4, 4)
    mixed = net.transpose(net.op("matmul", net.op("softmax", scores, axis=-1), each[2]), 0, 2, 1, 3)
    mixed = net.reshape(net.linear(net.reshape(mixed, 4, 4, width), width), 1, 2, 2, 2, 2, width)
    value = net.op("add", value, net.reshape(net.transpose(mixed, 0, 1, 3, 2, 4, 5), 1, 4, 4, width))
    corners = net.transpose(net.reshape(value, 1, 2, 2, 2, 2, width), 0, 1, 3, 4, 2, 5)
    merged = net.linear(net.layer_norm(net.reshape(corners, 1, 2, 2, 4 * width)), 2 * width, bias=False)
    return net.graph(net.linear(net.op("reduce_mean", net.layer_norm(merged), axes=(1, 2), keep=0), 5))


NETWORKS: dict[str, Callable[[], Graph]] = {
    "resnet": resnet,
    "bottleneck": lambda: resnet((1, 1), 4, bottleneck=True),
    "resnext": resnext,
    "padded_resnet": padded_resnet,
    "densenet": densenet,
    "mobilenet_v2": mobilenet_v2,
    "squeeze_excite": squeeze_excite,
    "shufflenet": shufflenet,
    "vgg": vgg,
    "cross_stage_partial": cross_stage_partial,
    "vit": vit,
    "packed_vit": lambda: vit(packed=True),
    "convnext": convnext,
    "convnext_v2": lambda: convnext(responds=True),
    "swin": swin,
}
"""Name → a small network of each kind."""
