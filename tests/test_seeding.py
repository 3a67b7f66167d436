import numpy as np
import pytest
import torch

from relaxrl.seeding import Generators


def test_streams_depend_on_seed_and_name_only():
    first, second = Generators(3), Generators(3)
    second.numpy("other").random(10)
    np.testing.assert_array_equal(first.numpy("a").random(4), second.numpy("a").random(4))
    assert torch.equal(torch.rand(4, generator=first.torch("a")), torch.rand(4, generator=second.torch("a")))
    assert not np.array_equal(first.numpy("a").random(4), first.numpy("b").random(4))
    assert not np.array_equal(Generators(4).numpy("a").random(4), Generators(3).numpy("a").random(4))


def test_streams_already_handed_out_are_rewound():
    generators = Generators(1)
    numpy_stream, torch_stream = generators.numpy("a"), generators.torch("a")
    state = generators.state_dict()
    before = numpy_stream.random(3), torch.rand(3, generator=torch_stream)
    generators.load_state_dict(state)
    after = numpy_stream.random(3), torch.rand(3, generator=torch_stream)
    np.testing.assert_array_equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        Generators(-1)
