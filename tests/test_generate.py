"""Generation: an answer does not depend on its batch, a stream says the same, nothing of the model leaks in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from tunesmith.config.schema import GenerationSection, LoraSection, TemplateSection
from tunesmith.conversation import Conversation, Message
from tunesmith.generate.decode import can_decode
from tunesmith.generate.engine import Generated, as_done, generate, stream
from tunesmith.generate.packed import packed
from tunesmith.generate.session import Session
from tunesmith.model.adapter import add_adapter
from tunesmith.tokens.encode import Encoder

Build = Callable[..., PreTrainedModel]

QUESTIONS = [
    "Is the pump faulty?",
    "阀门漏水了吗？请先关闭电源，再检查密封圈。",
    "x",
    "A long question deserves a careful answer: the pressure fell below the limit twice within one hour, so what now?",
    "The valve leaks at the seal.",
]
FAMILIES = ("llama", "qwen2", "qwen3", "gemma3")


@pytest.fixture(scope="module")
def encoder(tiny_tokenizer: Path) -> Encoder:
    return Encoder.load(tiny_tokenizer, TemplateSection())


@pytest.fixture(scope="module")
def conversations() -> list[Conversation]:
    return [Conversation((Message("user", question),)) for question in QUESTIONS]


def section(**values: object) -> GenerationSection:
    return GenerationSection.model_validate({"max_new_tokens": 12} | values)


def streamed(*arguments: object) -> tuple[list[str], Generated]:
    pieces = stream(*arguments)  # type: ignore[arg-type]
    texts = []
    while True:
        try:
            texts.append(next(pieces))
        except StopIteration as end:
            return texts, end.value


def likeliest(model: PreTrainedModel, ids: list[int], stops: frozenset[int], limit: int) -> list[int]:
    """The reference: the whole row through the model again for every token, without a cache or padding."""
    new: list[int] = []
    with torch.inference_mode():
        while len(new) < limit and not (new and new[-1] in stops):
            new.append(int(model(torch.tensor([ids + new])).logits[0, -1].argmax()))
    return new


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_streamed_and_one_by_one_are_the_same_tokens(
    family: str, tiny_model: Build, encoder: Encoder, conversations: list[Conversation]
) -> None:
    model = tiny_model(family)
    expected = [likeliest(model, encoder.context(c), encoder.stop_ids, 12) for c in conversations]
    for size in (1, 2, 5):
        found = list(generate(model, encoder, conversations, section(batch_size=size)))
        assert [answer.ids for answer in found] == expected, size
    assert [streamed(model, encoder, c, section())[1].ids for c in conversations] == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_the_library_s_plain_way_says_the_same(
    family: str, tiny_model: Build, encoder: Encoder, conversations: list[Conversation]
) -> None:
    model = tiny_model(family)
    seen = forwards(model)
    found = {}
    for kernels in ("fast", "plain"):
        seen.clear()
        settings = section(batch_size=3, kernels=kernels)
        found[kernels] = [(a.ids, a.finished) for a in generate(model, encoder, conversations, settings)]
        padded = len(seen) == 2 * 12  # two batches that end together
        assert padded == (kernels == "plain")
    assert found["plain"] == found["fast"]


def test_an_answer_ends_at_its_end_of_turn(
    tiny_model: Build, encoder: Encoder, conversations: list[Conversation]
) -> None:
    model = tiny_model("llama")
    reference = list(generate(model, encoder, conversations, section()))
    assert not any(answer.finished for answer in reference)
    stop = reference[0].ids[4]  # a token that this random model likes is made its end of turn
    encoder = Encoder.load(encoder.tokenizer.folder, TemplateSection())
    encoder.stop_ids = frozenset({stop})
    for answers in (
        list(generate(model, encoder, conversations, section())),
        [streamed(model, encoder, c, section())[1] for c in conversations],
    ):
        for answer, whole in zip(answers, reference, strict=True):
            end = whole.ids.index(stop) + 1 if stop in whole.ids else 12
            assert (answer.ids, answer.tokens, answer.finished) == (whole.ids[:end], end, stop in whole.ids)
        assert answers[0].finished


def test_answers_come_in_the_order_of_the_input_and_progress_adds_up(
    tiny_model: Build, encoder: Encoder, conversations: list[Conversation]
) -> None:
    many = conversations * 9  # more than one window of sorting
    done: list[int] = []
    model = tiny_model("llama")
    found = list(generate(model, encoder, many, section(max_new_tokens=2, batch_size=2), progress=done.append))
    assert [a.ids for a in found[:5]] * 9 == [a.ids for a in found]
    assert done == list(range(1, len(many) + 1))
    assert all(answer.seconds > 0 for answer in found)
    assert list(generate(model, encoder, [], section())) == []


def test_the_models_own_generation_settings_do_not_leak_in(
    tiny_model: Build, encoder: Encoder, conversations: list[Conversation]
) -> None:
    model = tiny_model("llama")
    plain = [answer.ids for answer in generate(model, encoder, conversations, section())]
    own = model.generation_config
    own.repetition_penalty, own.no_repeat_ngram_size, own.suppress_tokens = 5.0, 1, [plain[0][0]]
    assert [answer.ids for answer in generate(model, encoder, conversations, section())] == plain
    assert model.generation_config is own


@pytest.mark.parametrize(
    "values",
    [
        {"do_sample": True},
        {"do_sample": True, "temperature": 3.0, "top_k": 0},
        {"do_sample": True, "temperature": 2.0, "top_k": 5, "top_p": 0.9},
        {"repetition_penalty": 3.0},
        {"do_sample": True, "top_p": 0.5, "top_k": 0, "repetition_penalty": 1.5},
    ],
)
def test_the_stream_draws_as_the_batch_does(
    values: dict[str, object], tiny_model: Build, encoder: Encoder, conversations: list[Conversation]
) -> None:
    model = tiny_model("llama")
    batch = next(generate(model, encoder, conversations[:1], section(**values)))
    _texts, alone = streamed(model, encoder, conversations[0], section(**values))
    assert alone.ids == batch.ids
    assert alone.ids != next(generate(model, encoder, conversations[:1], section())).ids


def test_draws_begin_at_the_seed_and_disturb_nobody(
    tiny_model: Build, encoder: Encoder, conversations: list[Conversation]
) -> None:
    model = tiny_model("llama")
    hot = {"do_sample": True, "temperature": 3.0, "top_k": 0}
    before = torch.get_rng_state()
    first, again, other = (
        [answer.ids for answer in generate(model, encoder, conversations, section(seed=seed, **hot))]
        for seed in (1, 1, 2)
    )
    streamed(model, encoder, conversations[0], section(**hot))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_of_a_row_do_not_depend_on_the_rows_beside_it(
    tiny_model: Build, encoder: Encoder, conversations: list[Conversation]
) -> None:
    hot = {"do_sample": True, "temperature": 3.0, "top_k": 20, "repetition_penalty": 1.2}
    alone, both, all_ = (
        [a.ids for a in generate(tiny_model("llama"), encoder, conversations, section(batch_size=size, **hot))]
        for size in (1, 2, 5)
    )
    assert alone == both == all_


def forwards(model: PreTrainedModel) -> list[int]:
    """Fills itself with the number of tokens of each forward."""
    seen: list[int] = []
    model.get_input_embeddings().register_forward_hook(lambda _layer, ids, _out: seen.append(ids[0].numel()))
    return seen


def test_what_all_prompts_begin_with_is_computed_once(tiny_model: Build, encoder: Encoder) -> None:
    persona = "The pressure fell below the limit twice within one hour. " * 4
    rows = [Conversation((Message("system", persona), Message("user", question))) for question in QUESTIONS * 8]
    model = tiny_model("gemma3")  # the shared words are longer than its window
    expected = [likeliest(model, encoder.context(row), encoder.stop_ids, 3) for row in rows[:5]]
    seen = forwards(model)
    found = list(generate(model, encoder, rows, section(max_new_tokens=3, batch_size=4)))
    assert [answer.ids for answer in found] == expected * 8
    contexts = [encoder.context(row) for row in rows]
    shared = next(i for i, column in enumerate(zip(*contexts, strict=False)) if len(set(column)) > 1)
    own = sum(len(ids) - shared for ids in contexts)
    assert sum(seen) < shared + own + 4 * len(rows) < sum(map(len, contexts)) / 2  # 3 new tokens and a little


def test_other_system_prompts_later_are_seen(tiny_model: Build, encoder: Encoder) -> None:
    """More rows than are sorted together, and what they share changes on the way: all, less, more, nothing of it."""
    rows = [
        Conversation((Message("system", system), Message("user", f"{question} {i}")))
        for system in ("Be short and kind.", "Be short and rude.", "x")
        for i in range(6)
        for question in QUESTIONS[:3]
    ]
    model = tiny_model("qwen2")
    found = list(generate(model, encoder, rows, section(max_new_tokens=2, batch_size=1)))
    assert [a.ids for a in found] == [likeliest(model, encoder.context(r), encoder.stop_ids, 2) for r in rows]


def test_a_row_that_ends_leaves_and_one_that_waits_takes_its_place(
    tiny_model: Build, encoder: Encoder, conversations: list[Conversation]
) -> None:
    model = tiny_model("llama")
    encoder = Encoder.load(encoder.tokenizer.folder, TemplateSection())
    long = [answer.ids for answer in generate(model, encoder, conversations, section())]
    encoder.stop_ids = frozenset({long[0][4], long[1][1], long[2][7]})
    rows = conversations * 4
    expected = [likeliest(model, encoder.context(row), encoder.stop_ids, 12) for row in rows]
    assert len(set(map(len, expected))) > 1
    seen = forwards(model)
    order = dict(as_done(model, encoder, rows, section(batch_size=3)))
    assert [order[i].ids for i in range(len(rows))] == expected
    trial_and_prefix = 5
    by_length = sorted(range(len(rows)), key=lambda i: -len(encoder.context(rows[i])))
    each_to_its_longest = sum(max(len(expected[i]) for i in by_length[n : n + 3]) for n in range(0, len(rows), 3))
    assert len(seen) - trial_and_prefix < 0.9 * each_to_its_longest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_has_the_same_bits_in_every_batch(
    family: str, dtype: torch.dtype, tiny_model: Build, encoder: Encoder, conversations: list[Conversation]
) -> None:
    model = tiny_model(family).to(dtype)
    together = [a.ids for a in generate(model, encoder, conversations, section(batch_size=4))]
    assert together == [next(generate(model, encoder, [c], section())).ids for c in conversations]


def test_a_model_is_left_as_it_was_also_when_the_answers_are_not_wanted_any_more(
    tiny_model: Build, encoder: Encoder, conversations: list[Conversation]
) -> None:
    model = tiny_model("llama")
    before = model.config._attn_implementation
    answers = as_done(model, encoder, conversations, section(batch_size=2))
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert model.config._attn_implementation == before
    assert not any("forward" in vars(layer) for layer in model.modules())


def test_packed_weights_give_the_same_numbers(tiny_model: Build) -> None:
    ids = torch.arange(40)[None]
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny_model("llama").to(dtype)
        with torch.inference_mode():
            plain = model(ids).logits
            with packed(model):
                torch.testing.assert_close(model(ids).logits, plain)
            assert torch.equal(model(ids).logits, plain)


def other_models() -> dict[str, PreTrainedModel]:
    """Recurrent states, capped scores, sinks, a rotation that depends on the longest row."""
    import transformers

    sizes = {"vocab_size": 384, "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 0, "eos_token_id": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 48}
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 8}
    kinds = {
        "Mamba": sizes | {"state_size": 4},
        "Gemma2": sizes | heads | {"sliding_window": 8, "attn_logit_softcapping": 5.0},
        "GptOss": sizes | heads | experts,
        "Llama": sizes | heads | {"max_position_embeddings": 32, "rope_parameters": rope},
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {
            name: getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**values)).eval()
            for name, values in kinds.items()
        }


def test_a_model_with_other_states_is_asked_through_the_library(
    tiny_model: Build, encoder: Encoder, conversations: list[Conversation]
) -> None:
    assert all(can_decode(tiny_model(family)) for family in FAMILIES)
    for name, model in other_models().items():
        before = model.config._attn_implementation
        assert not can_decode(model), name
        assert model.config._attn_implementation == before
        found = [a.ids for a in generate(model, encoder, conversations[:2], section(max_new_tokens=3, batch_size=1))]
        assert found == [likeliest(model, encoder.context(c), encoder.stop_ids, 3) for c in conversations[:2]], name


def test_training_mode_comes_back(tiny_model: Build, encoder: Encoder, conversations: list[Conversation]) -> None:
    model = add_adapter(tiny_model("llama"), LoraSection(lora_dropout=0.5), seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.train()
    first, second = ([a.ids for a in generate(model, encoder, conversations, section())] for _time in range(2))
    assert first == second  # dropout was off
    assert model.training
    with model.disable_adapter():
        assert [a.ids for a in generate(model, encoder, conversations, section())] != first


class Speller(torch.nn.Module):
    """Spells a text with the model's interface: the tiny models know no words, and half characters need some."""

    def __init__(self, ids: list[int], start: int) -> None:
        super().__init__()
        self.ids, self.start, self.seen = ids, start, 0
        self.generation_config, self.device = None, torch.device("cpu")

    def forward(self, input_ids: torch.Tensor, past_key_values: object, use_cache: bool) -> object:
        from types import SimpleNamespace

        self.seen += input_ids.shape[1]
        logits = torch.zeros(1, 1, 384)
        logits[0, 0, self.ids[self.seen - self.start]] = 1.0
        return SimpleNamespace(logits=logits, past_key_values=self)


def test_a_stream_shows_whole_characters_and_all_of_them(encoder: Encoder, conversations: list[Conversation]) -> None:
    text = "漏水🙂 naïve\n"
    ids = [*encoder.tokenizer.text_ids(text), min(encoder.stop_ids)]
    assert len(ids) > len(text)  # so there are characters of several tokens
    model = Speller(ids, len(encoder.context(conversations[0])))
    pieces, answer = streamed(model, encoder, conversations[0], section(max_new_tokens=64))
    assert "".join(pieces) == answer.message.content == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > 5
    assert (answer.ids, answer.finished) == (ids, True)
    cut = Speller(ids, len(encoder.context(conversations[0])))
    pieces, answer = streamed(cut, encoder, conversations[0], section(max_new_tokens=1))
    assert "".join(pieces) == answer.message.content  # what is cut within a character is shown as cut
    assert not answer.finished


def test_a_session_answers_in_the_whole_history(tiny_model: Build, encoder: Encoder) -> None:
    model = tiny_model("qwen3")
    session = Session(model, encoder, section(), system="Be short.")
    said = ["".join(session.ask(question)) for question in QUESTIONS[:2]]
    assert [m.role for m in session.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert session.last is not None
    expected = next(generate(model, encoder, [Conversation(session.messages[:-1])], section()))
    assert session.last.ids == expected.ids
    assert said[1] == encoder.decode(expected.ids)
    session.reset()
    assert session.messages == (Message("system", "Be short."),)


def test_an_answer_that_was_broken_off_leaves_the_history_as_it_was(tiny_model: Build, encoder: Encoder) -> None:
    session = Session(tiny_model("llama"), encoder, section())
    pieces = session.ask("Is the pump faulty?")
    next(pieces)
    pieces.close()
    assert session.messages == ()
    assert "".join(session.ask("Is the pump faulty?"))
    assert len(session.messages) == 2
