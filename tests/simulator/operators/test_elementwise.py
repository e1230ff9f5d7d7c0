"""What torch's own samples (samples.py) do not reach of the operators on elements. A process each: it costs seconds."""

from __future__ import annotations


def test_in_place_forms_and_lists_give_what_the_cpu_gives(run) -> None:
    run("""
def agree(work, *tensors):
    here, there = [each.npu() for each in tensors], [each.clone() for each in tensors]
    found, expected = work(*here), work(*there)
    found = here if found is None else [found] if isinstance(found, torch.Tensor) else found
    expected = there if expected is None else [expected] if isinstance(expected, torch.Tensor) else expected
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, equal_nan=True)

torch.manual_seed(0)
for dtype in (torch.float32, torch.bfloat16):
    x, y = torch.rand(7, 5).to(dtype) + 0.1, torch.rand(5).to(dtype) + 0.1
    for name in ("add_", "sub_", "mul_", "div_", "pow_", "fmod_", "remainder_", "floor_divide_", "eq_", "ne_", "lt_",
                 "le_", "gt_", "ge_", "atan2_", "logical_and_", "clamp_min_", "clamp_max_"):
        work = lambda a, b: (getattr(a, name)(b), None)[1]
        agree(work, x, y)
        agree(work, x.t().contiguous().t(), y)  # strides are kept
        if name != "atan2_" and name != "logical_and_":
            agree(lambda a: (getattr(a, name)(0.5), None)[1], x)
    for name in ("exp_", "log_", "sqrt_", "rsqrt_", "sigmoid_", "tanh_", "relu_", "neg_", "abs_", "reciprocal_",
                 "floor_", "ceil_", "trunc_", "round_", "erf_", "zero_", "tril_", "triu_"):
        agree(lambda a: (getattr(a, name)(), None)[1], x - 0.5)
    agree(lambda a, b: (a.lerp_(b.expand(7, 5), 0.25), None)[1], x, y)
    agree(lambda a, b: (a.addcmul_(b, b, value=2).addcdiv_(b, b + 1, value=-0.5), None)[1], x, y)
    agree(lambda a: (a.masked_fill_(a > 0.5, -1), None)[1], x)
    agree(lambda a: (a.clamp_(0.2, 0.6), None)[1], x)
whole = torch.arange(-6, 6)
agree(lambda a: (a.bitwise_and_(5), None)[1], whole)
agree(lambda a: torch.div(a, 4, rounding_mode="floor"), whole)
agree(lambda a: torch.div(a, 4, rounding_mode="trunc"), whole)
agree(lambda a: a // -4, whole)

for dtypes in ((torch.float32,) * 3, (torch.float32, torch.bfloat16, torch.float32)):  # the second: one by one
    shapes = ((3,), (2, 2), ())
    lists = [[(torch.rand(shape) + 0.5).to(dtype) for shape, dtype in zip(shapes, dtypes)] for _ in range(3)]
    def both(work):
        def split(*flat):
            return work(*(list(flat[i:i + 3]) for i in (0, 3, 6)))
        agree(split, *(each for part in lists for each in part))
    both(lambda a, b, c: torch._foreach_add(a, b, alpha=2))
    both(lambda a, b, c: torch._foreach_add(a, 2.5))
    both(lambda a, b, c: torch._foreach_mul(a, [1.0, 2.0, 3.0]))
    both(lambda a, b, c: torch._foreach_div(a, b))
    both(lambda a, b, c: torch._foreach_maximum(a, 0.9))
    both(lambda a, b, c: torch._foreach_pow(a, b))
    both(lambda a, b, c: torch._foreach_addcmul(a, b, c, value=3))
    both(lambda a, b, c: torch._foreach_addcdiv(a, b, c, [1.0, 2.0, 3.0]))
    both(lambda a, b, c: torch._foreach_addcdiv(a, b, c, torch.tensor([1.0, 2.0, 3.0])))
    both(lambda a, b, c: torch._foreach_lerp(a, b, 0.25))
    both(lambda a, b, c: torch._foreach_norm(a))
    both(lambda a, b, c: torch._foreach_sqrt(a))
    both(lambda a, b, c: torch._foreach_round(a))
    both(lambda a, b, c: torch._foreach_sub_(a, b))
    both(lambda a, b, c: torch._foreach_zero_(a))
    both(lambda a, b, c: torch._foreach_copy_(a, b))
""")


def test_random_numbers_follow_the_seed_and_the_calls_before(run) -> None:
    run("""
drawn = {
    "rand": lambda: torch.rand(1000, device="npu"),
    "randn": lambda: torch.randn(1000, device="npu"),
    "randint": lambda: torch.randint(0, 100, (1000,), device="npu"),
    "normal": lambda: torch.normal(torch.zeros(1000).npu(), 2.0),
    "bernoulli": lambda: torch.empty(1000, device="npu").bernoulli_(0.3),
    "randperm": lambda: torch.randperm(1000, device="npu"),
    "multinomial": lambda: torch.multinomial(torch.ones(50).npu(), 30, replacement=True),
    "dropout": lambda: torch.nn.functional.dropout(torch.ones(1000).npu(), 0.3),
}
means = {"rand": 0.5, "randn": 0.0, "randint": 49.5, "normal": 0.0, "bernoulli": 0.3, "randperm": 499.5, "dropout": 1.0}
for name, draw in drawn.items():
    torch.npu.manual_seed(5)
    first, second = draw().cpu(), draw().cpu()
    torch.npu.manual_seed(5)
    again = draw().cpu()
    torch.npu.manual_seed(6)
    other = draw().cpu()
    assert torch.equal(first, again), name
    assert not torch.equal(first, second) and not torch.equal(first, other), name
    if name in means:
        spread = first.float().std() / 1000**0.5
        assert abs(first.float().mean() - means[name]) < 5 * spread + 1e-6, name
assert sorted(torch.randperm(100, device="npu").tolist()) == list(range(100))

x = (torch.rand(40, 33) + 1).npu().requires_grad_()
out = torch.nn.functional.dropout(x, 0.25)
out.sum().backward()
kept = (out != 0).cpu()
assert 0.6 < kept.float().mean() < 0.9
torch.testing.assert_close(out.detach().cpu(), torch.where(kept, x.detach().cpu() / 0.75, 0.0))
torch.testing.assert_close(x.grad.cpu(), kept / 0.75)

graph, numbers = torch.npu.NPUGraph(), torch.empty(100, device="npu")
with torch.npu.graph(graph):
    numbers.uniform_()
replays = []
for _ in range(2):
    graph.replay()
    replays.append(numbers.cpu())
assert not torch.equal(*replays) and all(((0 <= each) & (each < 1)).all() for each in replays)
""")


def test_optimizers_and_loss_scaling_step_as_torch_s_on_the_cpu(run) -> None:
    run("""
def trained(device, make):
    torch.manual_seed(1)
    weights = [torch.randn(6, 5), torch.randn(5), torch.randn(())]
    weights = [each.to(device).requires_grad_() for each in weights]
    optimizer = make(weights)
    for step in range(5):
        for number, each in enumerate(weights):
            torch.manual_seed(10 * step + number)
            each.grad = torch.randn(each.shape).to(device)
        optimizer.step()
    return [each.detach().cpu() for each in weights]

for make in (
    lambda w: torch.optim.AdamW(w, lr=0.1, weight_decay=0.1, fused=True),
    lambda w: torch.optim.AdamW(w, lr=0.1, amsgrad=True, maximize=True, fused=True),
    lambda w: torch.optim.AdamW(w, lr=0.1, foreach=True),
    lambda w: torch.optim.AdamW(w, lr=0.1, foreach=False),
    lambda w: torch.optim.Adam(w, lr=0.1, weight_decay=0.1),
    lambda w: torch.optim.SGD(w, lr=0.1, momentum=0.9, weight_decay=0.1, fused=True),
    lambda w: torch.optim.SGD(w, lr=0.1, momentum=0.9, dampening=0.2, foreach=True),
    lambda w: torch.optim.SGD(w, lr=0.1, momentum=0.9, nesterov=True, maximize=True, fused=True),
    lambda w: torch.optim.RMSprop(w, lr=0.1),
    lambda w: torch.optim.Adagrad(w, lr=0.1),
):
    for one, other in zip(trained("npu", make), trained("cpu", make), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)

weight = torch.ones(3).npu().requires_grad_()
optimizer, scaler = torch.optim.SGD([weight], lr=1.0), torch.amp.GradScaler("npu", init_scale=8.0, growth_interval=1)
for factor, then, scale in ((1.0, 0.0, 16.0), (float("inf"), 0.0, 8.0)):  # the second step is left out
    optimizer.zero_grad()
    scaler.scale((weight * factor).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert weight.tolist() == [then] * 3 and scaler.get_scale() == scale, (weight, scaler.get_scale())
""")
