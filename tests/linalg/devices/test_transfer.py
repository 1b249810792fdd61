"""What is sent to a device arrives whole, in blocks, and comes back in pieces."""

from __future__ import annotations

import pytest
import torch

from svc_dist.linalg.devices import transfer
from svc_dist.linalg.devices.transfer import moved, received, sent, sent_together, staged
from tests.support.pretended_device import COUNTS, OnDevice, Pretending, pretended_device


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "STAGED", 1000)


def test_what_is_staged_towards_a_device_arrives_whole() -> None:
    view = torch.randn(37, 91, generator=torch.Generator().manual_seed(0)).bfloat16()[:, ::7]
    assert torch.equal(staged(view, torch.empty(view.shape), pin=False), view.float())


def test_a_tensor_of_the_host_stays_where_the_cpu_computes() -> None:
    view = torch.ones(3)
    assert sent(view, "cpu") is view


def test_a_tensor_keeps_its_dtype_and_layout_on_the_way() -> None:
    view = torch.randn(60, 40, generator=torch.Generator().manual_seed(0)).bfloat16()
    with pretended_device(), Pretending():
        COUNTS.reset()
        there, turned = sent(view, "cuda"), sent(view.T, "cuda")
        cast = moved(turned, torch.float32, "cuda")
        assert isinstance(there, OnDevice)
        assert there.dtype == torch.bfloat16
        assert COUNTS.sent == 2 * view.numel() * 2
        assert COUNTS.waits == 0
        assert cast.is_contiguous()
        pieces = list(received(there.reshape(-1)))
        assert torch.equal(cast.cpu(), view.T.float())
        assert torch.equal(turned.cpu(), view.T)
    assert len(pieces) == 5
    assert not any(isinstance(piece, OnDevice) for piece in pieces)
    assert torch.equal(torch.cat(pieces), view.reshape(-1))


def test_tensors_that_are_sent_together_take_one_copy_and_come_back_whole() -> None:
    views = [torch.randn(70, generator=torch.Generator().manual_seed(at)).bfloat16() for at in range(3)]
    with pretended_device(), Pretending():
        COUNTS.reset()
        there = sent_together(views, "cuda")
        assert (COUNTS.launches, COUNTS.waits, COUNTS.sent) == (1, 0, 2 * 3 * 70)
        pieces = list(received(there.float().view(-1), 70))
        assert [len(piece) for piece in pieces] == [210]
        pieces = list(received(there.double().view(-1), 70))
    assert [len(piece) for piece in pieces] == [70, 70, 70]  # of 1,000 bytes each at most
    assert torch.equal(torch.cat(pieces), torch.stack(views).double().view(-1))
