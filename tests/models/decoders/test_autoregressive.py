"""Writing codes from slots: what may see what, with and without memory, and losses."""

import pytest
import torch

from torchslots.io.errors import UserError
from torchslots.models.decoders.autoregressive import AutoregressiveDecoder, most_likely_codes, sampled_codes
from torchslots.models.decoders.code_transformer import CodeTransformer, most_likely, sampled
from torchslots.models.layers.transformer import CausalDecoder
from torchslots.models.losses import mean_cross_entropy, sum_cross_entropy
from torchslots.models.tokenizers.dvae import DVAE, cosine_temperature, one_hot, patch_decoder, patch_encoder
from torchslots.models.types import Clip, State

CODES, LENGTH = 11, 24


def writer(
    length: int = LENGTH, dropout: float = 0.0, num_codes: int = CODES, token_dropout: float = 0.0
) -> CodeTransformer:
    torch.manual_seed(0)
    decoder = CausalDecoder(16, num_layers=3, num_heads=4, mlp_size=24, dropout=dropout)
    sizes = {"slot_size": 8, "size": 16, "num_codes": num_codes, "length": length}
    return CodeTransformer(decoder, **sizes, dropout=dropout, token_dropout=token_dropout)


def tokenizer() -> DVAE:
    torch.manual_seed(1)
    return DVAE(
        patch_encoder(CODES, 8),
        patch_decoder(CODES, 8),
        vocabulary=CODES,
        temperature=lambda step: cosine_temperature(step, start=1.0, end=0.1, num_steps=10),
    )


def tokens(**arguments) -> AutoregressiveDecoder:
    numbers = {"code_grid": (4, 6), "grid": (8, 12), "resolution": (16, 24), **arguments}
    return AutoregressiveDecoder(tokenizer(), writer(), **numbers)


def slots(n: int = 5, k: int = 3) -> torch.Tensor:
    return torch.randn(n, k, 8, generator=torch.Generator().manual_seed(2))


def codes(n: int = 5) -> torch.Tensor:
    return torch.randint(0, CODES, (n, LENGTH), generator=torch.Generator().manual_seed(3))


def clip() -> Clip:
    each = slots(4).unflatten(0, (2, 2))
    attn = torch.rand(2, 2, 3, 96, generator=torch.Generator().manual_seed(4)).softmax(2)
    return Clip(each, each, attn, None, State(each[:, -1]))


def batch() -> dict[str, torch.Tensor]:
    return {"video": torch.rand(2, 2, 3, 16, 24, generator=torch.Generator().manual_seed(5))}


# ------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("place", [0, 7, 22])
def test_a_code_changes_what_comes_after_it_alone(place):
    model, before = writer(), codes()
    after = before.clone()
    after[:, place] = (after[:, place] + 1) % CODES
    first, second = model(before, slots()), model(after, slots())
    assert torch.equal(first[:, : place + 1], second[:, : place + 1])
    assert (first[:, place + 1 :] != second[:, place + 1 :]).any(-1).all()


def test_the_last_code_is_not_looked_at():
    model, before = writer(), codes()
    after = before.clone()
    after[:, -1] = (after[:, -1] + 1) % CODES
    assert torch.equal(model(before, slots()), model(after, slots()))


def plainly(model: CodeTransformer, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes, each from a pass over all before it, and the scores that it was chosen by."""
    written, scores = torch.zeros(len(given), 0, dtype=torch.long), []
    for _ in range(model.length):
        found = model(torch.nn.functional.pad(written, (0, 1)), given)[:, -1]
        scores.append(found)
        written = torch.cat([written, found.argmax(-1, keepdim=True)], 1)
    return written, torch.stack(scores, 1)


@pytest.mark.parametrize("token_dropout", [0.0, 0.6])
def test_remembering_what_was_written_changes_nothing(token_dropout):
    model, scores = writer(token_dropout=token_dropout).eval(), []

    def choose(logits):
        scores.append(logits)
        return most_likely(logits)

    with torch.no_grad():
        expected, expected_scores = plainly(model, slots())
    assert torch.equal(model.write(slots(), choose), expected)
    torch.testing.assert_close(torch.stack(scores, 1), expected_scores, rtol=1e-5, atol=1e-5)
    assert len(expected.unique()) > 3


def test_the_order_of_slots_does_not_matter():
    model = writer()
    mixed = slots()[:, [2, 0, 1]]
    torch.testing.assert_close(model(codes(), mixed), model(codes(), slots()))
    assert torch.equal(model.eval().write(mixed), model.write(slots()))


def test_pictures_do_not_look_at_each_other():
    model = writer().eval()
    assert torch.equal(model.write(slots())[3:4], model.write(slots()[3:4]))


def test_the_first_block_adds_to_what_it_normalised():
    model = writer().eval()
    for block in model.decoder.blocks:
        for branch in (block.self_attention.out, block.cross_attention.out, block.mlp[-1]):
            torch.nn.init.zeros_(branch.weight)
    entering = 5 * torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(6)) + 3
    normed = model.decoder.blocks[0].norm_self(entering)
    torch.testing.assert_close(model.decoder(entering, torch.zeros(2, 3, 16)), model.decoder.norm(normed))


def test_dropout_is_for_training():
    model = writer(dropout=0.5)
    assert not torch.equal(model(codes(), slots()), model(codes(), slots()))
    model.eval()
    assert torch.equal(model(codes(), slots()), model(codes(), slots()))


def test_small_steps_are_not_shared_among_threads():
    model, seen, before = writer().eval(), [], torch.get_num_threads()

    def choose(logits):
        seen.append(torch.get_num_threads())
        if len(seen) > model.length:
            raise KeyError("stop")
        return most_likely(logits)

    torch.set_num_threads(2)
    try:
        model.write(slots(), choose)
        assert set(seen) == {1} and torch.get_num_threads() == 2
        with pytest.raises(KeyError, match="stop"):
            model.write(slots(), choose)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# ------------------------------------------------------------------------------------------------- choosing


def test_draws_follow_their_generator_and_their_chances():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).expand(20_000, -1)
    choose = sampled(0.5, generator=torch.Generator().manual_seed(0))
    found = choose(logits).bincount(minlength=4) / 20_000
    torch.testing.assert_close(found, (logits[0] / 0.5).softmax(0), rtol=0, atol=0.015)
    again = sampled(0.5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(logits).bincount(minlength=4) / 20_000, found)


def test_draws_among_the_few_likeliest():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).expand(2000, -1)
    found = sampled(5.0, 2, generator=torch.Generator().manual_seed(0))(logits)
    assert set(found.tolist()) == {1, 2}
    assert set(sampled(5.0, 1, generator=torch.Generator())(logits).tolist()) == {2}


def test_drawn_pictures_differ_by_seed_alone():
    model = writer().eval()
    first, second, other = (
        model.write(slots(), sampled(generator=torch.Generator().manual_seed(seed))) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second) and not torch.equal(first, other)


@pytest.mark.parametrize(("temperature", "top_k"), [(0.0, None), (1.0, 0)])
def test_draws_that_make_no_sense(temperature, top_k):
    with pytest.raises(ValueError, match="temperature over 0"):
        sampled(temperature, top_k, generator=torch.Generator())


# --------------------------------------------------------------------------------------------------- losses


def test_loss_is_of_the_tokenizers_codes():
    model = tokens()
    pictures = 2 * batch()["video"].flatten(0, 1) - 1
    wanted = model.tokenizer.codes(pictures)
    scores = model.writer(wanted, clip().slots.flatten(0, 1))
    chances = scores.softmax(-1).gather(-1, wanted[..., None])
    torch.testing.assert_close(model.loss(clip(), batch()), {"tokens": -chances.log().mean()})


def test_sums_are_of_a_picture():
    scores = torch.randn(3, LENGTH, CODES, generator=torch.Generator().manual_seed(0))
    wanted = codes(3)
    torch.testing.assert_close(sum_cross_entropy(scores, wanted), LENGTH * mean_cross_entropy(scores, wanted))


def test_the_order_of_slots_leaves_the_loss():
    model, found = tokens(), clip()
    mixed = found._replace(slots=found.slots[:, :, [1, 2, 0]])
    torch.testing.assert_close(model.loss(mixed, batch()), model.loss(found, batch()))


def test_a_finished_tokenizer_learns_nothing():
    model = tokens().train()
    assert not model.tokenizer.training and model.writer.training
    sum(model.loss(clip(), batch()).values()).backward()
    assert all(p.grad is None and not p.requires_grad for p in model.tokenizer.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.writer.parameters())


def test_pictures_behind_a_soft_draw():
    model = tokens(image_temperature=0.1)
    drawn_noise = torch.rand(4, CODES, 4, 6, generator=torch.Generator().manual_seed(0)) + 0.1
    losses = model.loss(clip(), {**batch(), "exponential": drawn_noise})
    wanted = model.tokenizer.codes(2 * batch()["video"].flatten(0, 1) - 1)
    scores = model.writer(wanted, clip().slots.flatten(0, 1)).transpose(1, 2).unflatten(2, (4, 6))
    soft = ((scores.log_softmax(1) - drawn_noise.log()) / 0.1).softmax(1)
    error = (model.tokenizer.decode(soft) - (2 * batch()["video"].flatten(0, 1) - 1)).square().mean()
    torch.testing.assert_close(losses["image"], error)
    assert set(losses) == {"tokens", "image"}
    heavy = tokens(image_temperature=0.1, image_weight=7.0)
    weighed = heavy.loss(clip(), {**batch(), "exponential": drawn_noise})["image"]
    torch.testing.assert_close(weighed, 7 * losses["image"])


def joint() -> AutoregressiveDecoder:
    ranges = {"to_native": torch.nn.Identity(), "from_native": torch.nn.Identity()}
    return tokens(target_codes=sampled_codes, frozen=False, error=sum_cross_entropy, **ranges)


def test_a_tokenizer_that_is_trained_along_learns_from_its_own_loss():
    model = joint()
    assert model.train().tokenizer.training
    losses = model.loss(clip(), {**batch(), "step": 0})
    losses["tokens"].backward(retain_graph=True)
    assert all(p.grad is None for p in model.tokenizer.parameters())
    losses["tokenizer"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.tokenizer.parameters())


def test_codes_are_drawn_by_their_chances():
    model = joint()
    pictures = batch()["video"].flatten(0, 1)
    chances = model.tokenizer.logits(pictures).softmax(1).flatten(2).transpose(1, 2).detach()
    torch.manual_seed(0)
    found = torch.stack([sampled_codes(model.tokenizer, pictures, {"step": 0}).codes for _ in range(400)])
    often = one_hot(found.flatten()[:, None], CODES).reshape(400, 4, LENGTH, CODES).mean(0)
    assert (often - chances).abs().mean() < 0.02
    assert torch.equal(most_likely_codes(model.tokenizer, pictures, {}).codes, chances.argmax(-1))


def test_the_temperature_follows_the_training():
    model = joint()
    errors = []
    for step in (0, 10):
        torch.manual_seed(0)
        errors.append(sampled_codes(model.tokenizer, batch()["video"].flatten(0, 1), {"step": step}).losses)
    torch.manual_seed(0)
    last = sampled_codes(model.tokenizer, batch()["video"].flatten(0, 1), {})
    assert errors[0] != errors[1] and last.losses == errors[1]


# ------------------------------------------------------------------------------------------------ decoding


def test_decoding_paints_what_is_written():
    model = tokens(chunk=3).eval()
    decoded = model.decode(clip())
    written = model.writer.write(clip().slots.flatten(0, 1))
    pictures = model.tokenizer.decode(one_hot(written.unflatten(1, (4, 6)), CODES)) / 2 + 0.5
    torch.testing.assert_close(decoded.recon["video"].flatten(0, 1), pictures)
    assert decoded.recon["video"].shape == (2, 2, 3, 16, 24) and decoded.slot_recon is None
    torch.testing.assert_close(decoded.masks.sum(2), torch.ones(2, 2, 16, 24))


def test_masks_alone_write_nothing(monkeypatch):
    model = tokens().eval()
    whole = model.decode(clip())
    monkeypatch.setattr(CodeTransformer, "write", None)
    alone = model.decode(clip(), recon=False)
    assert alone.recon == {} and torch.equal(alone.masks, whole.masks)


def test_a_long_work_shows_a_bar(monkeypatch):
    shown = []

    def bar(what, total, unit=""):
        from contextlib import contextmanager

        @contextmanager
        def block():
            shown.append(total)
            yield lambda n=1, note="": shown.append(n)

        return block()

    model = tokens(chunk=2).eval()
    monkeypatch.setattr("torchslots.models.decoders.autoregressive.progress", bar)
    short = model.write(slots())
    assert not shown
    monkeypatch.setattr("torchslots.models.decoders.autoregressive.LONG", 100)
    assert torch.equal(model.write(slots()), short)
    assert shown[0] == 3 * LENGTH == sum(shown[1:])


def test_another_vocabulary_is_refused():
    with pytest.raises(UserError, match="tokenizer has 11 codes, the transformer writes 12"):
        AutoregressiveDecoder(
            tokenizer(), writer(num_codes=12), code_grid=(4, 6), grid=(8, 12), resolution=(16, 24)
        )


def test_another_number_of_codes_is_refused():
    with pytest.raises(UserError, match="writes 24 codes, a picture has 4 rows of 5"):
        tokens(code_grid=(4, 5))


def test_forgotten_codes_are_asked_of_the_slots():
    model, other = writer(token_dropout=1.0), (codes() + 1) % CODES
    for mode in (True, False):
        model.train(mode)
        assert torch.equal(model(codes(), slots()), model(other, slots()))
        assert not torch.equal(model(codes(), slots()), model(codes(), slots() + 1))


def test_outside_training_the_same_codes_are_forgotten_each_time():
    model = writer(token_dropout=0.5).eval()
    first, other = model(codes(), slots()), model((codes() + 1) % CODES, slots())
    assert torch.equal(first, model(codes(), slots())) and not torch.equal(first, other)
    everything = writer().eval()(codes(), slots())
    assert not torch.equal(first, everything)
