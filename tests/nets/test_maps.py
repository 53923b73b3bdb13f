"""What networks of convolutions share: sizes on the way, maps between them, what all promise."""

from functools import partial

import pytest
import torch
from torch.nn import functional

from latently import expr
from latently.nets import Conv, ResNet
from latently.nets._maps import Map, Picture, way_between
from latently.registry import components

NETS = pytest.mark.parametrize("net", [Conv, ResNet])
SIZES = [(1, 1), (5, 3), (7, 1), (13, 17), (28, 20), (28, 28), (32, 32), (105, 105)]


def directions(size):
    """Pairs of shapes with an image of this size, in each direction."""
    image = (2, *size)
    return [
        (image, (6,)),
        ((6,), image),
        (image, (5, *size)),
        (size, (6,)),
        ((6,), size),
        (size, size),
        (image, (4, 7, 7)),
        ((4, 7, 7), image),
        (image, (2, 20, 4)),
    ]


def run(net, in_shape, rows=3):
    return net(torch.randn(rows, *in_shape, dtype=next(net.parameters()).dtype))


# The sizes on the way.


@pytest.mark.parametrize(
    ("in_shape", "out_shape", "sizes"),
    [
        ((1, 28, 28), (9,), [(28, 28), (14, 14), (7, 7), (4, 4)]),
        ((3, 105, 28), (9,), [(105, 28), (53, 14), (27, 7), (14, 4)]),
        ((1, 5, 3), (9,), [(5, 3), (3, 2), (2, 1), (1, 1)]),
        ((1, 1, 1), (9,), [(1, 1)] * 4),
        ((1, 28, 28), (4, 7, 7), [(28, 28), (14, 14), (7, 7), (7, 7), (7, 7)]),
        ((1, 28, 28), (4, 28, 28), [(28, 28)] * 5),
        ((1, 28, 28), (4, 2, 2), [(28, 28), (14, 14), (7, 7), (2, 2), (2, 2)]),
        ((1, 28, 28), (4, 10, 20), [(28, 28), (14, 20), (10, 20), (10, 20), (10, 20)]),
        ((1, 30, 8), (4, 10, 16), [(30, 8), (15, 8), (10, 8), (10, 16), (10, 16)]),
    ],
)
def test_sizes_halve_until_there_is_nothing_to_halve(in_shape, out_shape, sizes):
    channels = (4, 5, 6)
    found = way_between("Conv", in_shape, out_shape, channels)
    assert [p[1:] for p in found.pictures] == sizes
    assert tuple(p.channels for p in found.inner) == channels
    if in_shape[1:] != out_shape[1:]:
        mirrored = way_between("Conv", out_shape, in_shape, channels)
        assert mirrored.pictures == found.pictures[::-1]


# Maps between pictures, against their definitions.


def mapped(before, after, kernel=3):
    made = Map(Picture(*before), Picture(*after), kernel, 1.0).double()
    torch.nn.init.normal_(made.conv.bias)
    h = torch.randn(2, *before, dtype=torch.float64)
    return made, h, made(h)


def plain(made, h):
    """The convolution at every pixel of h."""
    padding = [k // 2 for k in made.conv.kernel_size]
    return functional.conv2d(h, made.conv.weight, made.conv.bias, padding=padding)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 105])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_halving_keeps_every_second_pixel_of_a_convolution(size, kernel, exactly):
    half = (size + 1) // 2
    made, h, found = mapped((2, size, 3), (4, half, 2), kernel)
    assert found.shape == (2, 4, half, 2)
    exactly(found, plain(made, h)[:, :, ::2, ::2])


@pytest.mark.parametrize("size", [2, 3, 4, 7, 8, 105])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_doubling_is_a_convolution_of_repeated_pixels(size, kernel, exactly):
    half = (size + 1) // 2
    made, h, found = mapped((2, half, 2), (4, size, 3), kernel)
    repeated = h.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :size, :3]
    assert found.shape == (2, 4, size, 3)
    exactly(found, plain(made, repeated))


def test_other_sizes_are_averages_of_a_convolution(exactly):
    made, h, found = mapped((2, 14, 9), (3, 10, 2))
    whole = plain(made, h)[:, :, :, ::2]  # 9 columns: 5, then averages to 2
    rows = [whole[:, :, i * 14 // 10 : -(-(i + 1) * 14 // 10)].mean(2) for i in range(10)]
    whole = torch.stack(rows, 2)
    columns = [whole[..., i * 5 // 2 : -(-(i + 1) * 5 // 2)].mean(-1) for i in range(2)]
    exactly(found, torch.stack(columns, -1))


def test_doubling_leaves_no_checkerboard(exactly):
    made, _, _ = mapped((2, 6, 7), (4, 12, 14))
    inside = made(torch.ones(1, 2, 6, 7).double())[0, :, 1:-1, 1:-1]
    exactly(inside, inside[:, :1, :1].expand_as(inside))


@pytest.mark.parametrize(("size", "width"), [(1, 1), (2, 3), (3, 5), (4, 7), (50, 7)])
def test_kernel_is_no_wider_than_reaches_all_of_a_picture(size, width):
    made, _, _ = mapped((2, size, 50), (2, size, 50), kernel=7)
    assert made.conv.kernel_size == (width, 7)


# What networks of convolutions promise.


@NETS
@pytest.mark.parametrize("size", SIZES)
def test_any_size_in_every_direction(net, size):
    for in_shape, out_shape in directions(size):
        for channels in ((3,), (3, 4, 5)):
            made = net(in_shape, out_shape, channels=channels)
            assert run(made, in_shape).shape == (3, *out_shape)
            assert run(made, in_shape, rows=0).shape == (0, *out_shape)


@NETS
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (9, 8)])
def test_every_parameter_receives_a_gradient(net, size):
    for in_shape, out_shape in directions(size):
        made = net(in_shape, out_shape, channels=(8, 9), activation=torch.nn.SiLU)
        run(made, in_shape).square().sum().backward()
        for name, parameter in made.named_parameters():
            assert parameter.grad.isfinite().all(), (name, in_shape, out_shape)
            assert parameter.grad.abs().sum() > 0, (name, in_shape, out_shape)


@NETS
@pytest.mark.parametrize("training", [True, False])
def test_rows_do_not_see_each_other(net, training, exactly):
    for in_shape, out_shape in directions((9, 8)):
        made = net(in_shape, out_shape, channels=(8, 9)).double().train(training)
        x = torch.randn(4, *in_shape).double()
        together = made(x)
        exactly(together, torch.cat([made(row[None]) for row in x]))
        x[1:] = 1e3
        exactly(together[:1], made(x)[:1])


@NETS
def test_a_jacobian_is_that_of_the_map(net):
    made = net((2, 4, 3), (2,), channels=(4,), activation=torch.nn.Tanh).double()
    x = torch.randn(2, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(made, x)
    made = net((2,), (2, 4, 3), channels=(4,), activation=torch.nn.Tanh).double()
    z = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(made, z)


@NETS
@pytest.mark.slow
def test_compiled_in_one_graph_it_is_the_same(net, exactly):
    for in_shape, out_shape in (((2, 9, 8), (5,)), ((5,), (2, 9, 8)), ((2, 9, 8), (2, 5, 3))):
        torch.compiler.reset()
        made = net(in_shape, out_shape, channels=(4, 5)).double()
        compiled = torch.compile(made, backend="eager", fullgraph=True)
        x = torch.randn(2, *in_shape).double()
        exactly(compiled(x), made(x))


@NETS
def test_it_is_a_function_of_the_seed_and_needs_no_memory_to_be_planned(net):
    for in_shape, out_shape in directions((9, 8)):
        twins = []
        for _ in range(2):
            torch.manual_seed(3)
            twins.append(net(in_shape, out_shape, channels=(8, 9)))
        x = torch.randn(2, *in_shape)
        assert torch.equal(*(twin(x) for twin in twins))
        with torch.device("meta"):
            planned = net(in_shape, out_shape, channels=(8, 9))
        assert all(p.is_meta for p in planned.parameters())
        shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (planned, twins[0])]
        assert shapes[0] == shapes[1]


@NETS
def test_shifted_pictures_give_shifted_answers_inside(net, exactly):
    """By as many pixels as the stages halve; the edges see that the picture ends."""
    x = torch.randn(1, 1, 96, 96).double()
    for out_shape, step in (((2, 96, 96), 1), ((2, 24, 24), 4)):
        made = net((1, 96, 96), out_shape, channels=(4, 5)).double()
        shifted = x.roll((4, 8), (2, 3))
        found, wanted = made(shifted), made(x).roll((4 // step, 8 // step), (2, 3))
        edge = 40 // step
        exactly(*(y[..., edge:-edge, edge:-edge] for y in (found, wanted)))
        assert not torch.allclose(found, wanted)
    z = torch.randn(1, 1, 24, 24).double()
    made = net((1, 24, 24), (2, 96, 96), channels=(4, 5)).double()
    found, wanted = made(z.roll((1, 2), (2, 3))), made(z).roll((4, 8), (2, 3))
    exactly(*(y[..., 44:-44, 44:-44] for y in (found, wanted)))


@NETS
def test_it_starts_near_zero_whatever_its_depth(net):
    """Training starts at the best distribution that ignores the inputs."""
    for channels in ((32,), (32, 32, 32, 32)):
        for in_shape, out_shape in (((3, 32, 32), (64,)), ((64,), (3, 32, 32))):
            deviation = run(net(in_shape, out_shape, channels=channels), in_shape, 20).std()
            assert 0.02 < deviation < 0.4


@NETS
def test_dropout_is_of_training_only(net):
    made = net((1, 8, 8), (5,), channels=(8,), dropout=0.5)
    x = torch.randn(2, 1, 8, 8)
    assert not torch.equal(made(x), made(x))
    made.eval()
    plain = net((1, 8, 8), (5,), channels=(8,))
    plain.load_state_dict(_renamed(made, plain))
    assert torch.equal(made(x), plain(x))


def _renamed(made, plain):
    """Weights under the names they have where no dropout counts as a layer."""
    return dict(zip(plain.state_dict(), made.state_dict().values(), strict=True))


@NETS
def test_rows_and_columns_of_one_channel_are_an_image(net):
    flat, deep = net((9, 8), (5,), channels=(4,)), net((1, 9, 8), (5,), channels=(4,))
    deep.load_state_dict(flat.state_dict())
    x = torch.randn(2, 9, 8)
    assert torch.equal(flat(x), deep(x[:, None]))


# What is refused, and how it is named.


@NETS
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channels": ()}, ["channels=()", "1 or more"]),
        ({"channels": (8, 0)}, ["channels=(8, 0)"]),
        ({"channels": (8, 2.5)}, ["channels=(8, 2.5)"]),
        ({"channels": (8, True)}, ["channels=(8, True)"]),
        ({"channels": "ab"}, ["channels='ab'"]),
        ({"channels": None}, ["channels=None"]),
        ({"kernel": 4}, ["kernel=4", "odd"]),
        ({"kernel": -1}, ["kernel=-1", "odd"]),
        ({"kernel": (3, 3)}, ["kernel=(3, 3)", "odd"]),
        ({"dropout": 1.0}, ["dropout=1.0"]),
        ({"dropout": "a"}, ["dropout='a'"]),
    ],
)
def test_options_outside_their_range_are_refused(net, options, words, refused):
    with refused(net.__name__, *words):
        net((1, 8, 8), (2,), **options)


@NETS
def test_shapes_without_an_image_are_refused(net, refused):
    with refused(net.__name__, "(4,)", "(2,)", "both vectors", "net=MLP"):
        net((4,), (2,))
    for shape in ((2, 3, 4, 5), (), (1, 0, 8)):
        with refused(net.__name__, str(shape), "net=MLP"):
            net(shape, (2,))
        with refused(net.__name__, str(shape), "net=MLP"):
            net((2,), shape)


@NETS
def test_one_number_stands_for_one_stage(net):
    one, other = (net((1, 8, 8), (2,), channels=c) for c in (8, (8,)))
    assert [p.shape for p in one.parameters()] == [p.shape for p in other.parameters()]


@NETS
def test_it_is_named_like_any_other(net):
    text = f"{net.__name__}(channels=(16, 32), kernel=5)"
    made = expr.build(text, components())
    assert isinstance(made, partial)
    assert made.func is net
    assert expr.show(made) == text
