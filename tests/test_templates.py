"""Which template, reasoning and system prompt: chosen once, the same in training, chat, batch and evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tunesmith.actions.prepare import prepare
from tunesmith.actions.voice import Voice
from tunesmith.config.load import load
from tunesmith.config.schema import Config, DataSection, TemplateSection
from tunesmith.conversation import Conversation, Message, Origin, ToolCall
from tunesmith.data import dataset
from tunesmith.data.prompts import read_prompts
from tunesmith.errors import DataError, TemplateError
from tunesmith.tokens.choose import shipped
from tunesmith.tokens.encode import Encoder
from tunesmith.tokens.jsontemplate import read, to_jinja

ASSETS = Path(__file__).parents[2] / "shared" / "assets"
real = pytest.mark.skipif(not ASSETS.exists(), reason="real tokenizers lie in the shared folder, not here")
GOLDEN = {
    "qwen2.5": "qwen2_chatml",
    "llama3": "llama3_instruct",
    "baichuan2": "baichuan2_chat",
    "deepseek-llm": "deepseek_chat",
}
TOOL = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {}}}
CALL = Message("assistant", tool_calls=(ToolCall("weather", {"city": "Paris"}, "call00001"),))
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKS = CHATML.replace(
    "{{ m.content }}",
    "{% if m.role == 'assistant' and loop.last %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}"
    "{{ m.content }}",
)


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str, **more: Any) -> Message:
    return Message("assistant", text, **more)


@cache
def family(name: str, **section: Any) -> Encoder:
    return Encoder.load(ASSETS / "tokenizers" / name, TemplateSection(date="2026-11-22", **section))


Made = Callable[..., Encoder]


@pytest.fixture
def made(tiny_tokenizer: Path, tmp_path: Path) -> Made:
    def make(template: str, **section: Any) -> Encoder:
        (tmp_path / "mine.jinja").write_text(template, encoding="utf-8")
        return Encoder.load(tiny_tokenizer, TemplateSection(path=tmp_path / "mine.jinja", **section))

    return make


def texts(encoder: Encoder, *messages: Message, tools: Any = (), meta: Any = None) -> list[tuple[str, str]]:
    """(context, answer) of each trained answer as text; each context is that of inference."""
    row = Conversation(messages, tools, meta or {})
    found = encoder.encode(row)
    assert found.error is None, found.error
    for answer in found.answers:
        asked = Conversation(messages[: answer.turn], tools, meta or {})
        assert answer.context_ids == encoder.context(asked)
    decode = encoder.tokenizer.decode
    pairs = [(a.context_ids, a.answer_ids) for a in found.answers]
    return [(decode(c, skip_special_tokens=False), decode(a, skip_special_tokens=False)) for c, a in pairs]


# --- which template ---------------------------------------------------------------------------------------------------


@real
@pytest.mark.parametrize(("name", "template"), GOLDEN.items())
def test_the_shipped_json_templates_render_what_the_vendors_do(name: str, template: str) -> None:
    encoder = family(name, path=Path(template), thinking="strip")
    assert encoder.template.source == f"{template}.json"
    assert not encoder.notices  # it renders as the tokenizer's own
    for line in (ASSETS / "golden" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        messages = [Message(m["role"], m["content"]) for m in row["messages"]]
        found = encoder.encode(Conversation(tuple(messages))).answers
        assert len(found) == len(row["turns"])
        for answer, turn in zip(found, row["turns"], strict=True):
            ids = encoder.tokenizer.full.encode(turn["full"], add_special_tokens=False).ids
            whole = answer.context_ids + answer.answer_ids
            whole = whole[:-1] if name == "baichuan2" else whole  # its end of text is in no vendor's rendering
            assert ids[: len(whole)] == whole, row["case"]
            prompt = encoder.tokenizer.full.encode(turn["prompt"], add_special_tokens=False).ids
            assert answer.context_ids == prompt, row["case"]


@real
def test_chatglm3_goes_by_the_vendors_ids() -> None:
    encoder = family("chatglm3-hf")
    assert encoder.template.source == "chatglm3.json"
    row = Conversation((Message("system", "你好"), user("你好"), assistant("你好"), Message("tool", "你好")))
    gmask, sop, system, person, model, observation = 64790, 64792, 64794, 64795, 64796, 64797
    line, hello = [30910, 13], [36474, 54591]
    turns = [[role, *line, *hello] for role in (system, person, model, observation)]
    assert encoder.context(row) == [gmask, sop, *sum(turns, []), model, *line]


def test_a_template_is_a_shipped_name_a_json_file_or_a_jinja_file(
    tiny_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = Conversation((user("q"),))
    Path("mine.json").write_text('{"user": "Q: {{content}}\\n", "assistant": "A: {{content}}{{eos_token}}"}')
    Path("kept.json").write_text(json.dumps({"chat_template": CHATML}))
    expected = {
        "alpaca_instruction": "### Instruction:\nq\n\n### Response:\n",
        "chatml": "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n",
        "mine.json": "Q: q\nA: ",
        "kept.json": "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n",
    }
    for name, text in expected.items():
        section = load(None, [f"template.path={name}"]).config.template
        encoder = Encoder.load(tiny_tokenizer, section)
        assert encoder.tokenizer.decode(encoder.context(asked), skip_special_tokens=False) == text
    with pytest.raises(TemplateError, match="chatml"):
        Encoder.load(tiny_tokenizer, TemplateSection(path=Path("no_such_name")))


def test_a_template_of_ones_own_says_where_it_renders_differently(made: Made) -> None:
    assert not made(CHATML).notices
    [notice] = made(CHATML.replace("}}\n{{", "}}{{ ': ' if m.role == 'user' else '\n' }}{{")).notices
    assert "'<|im_start|>user: question<" in notice
    assert "'<|im_start|>user\\nquestion<" in notice


def test_the_order_of_templates(tiny_tokenizer: Path, tmp_path: Path) -> None:
    def source(folder: Path, **section: Any) -> str:
        return Encoder.load(folder, TemplateSection(**section)).template.source

    config = json.loads((tiny_tokenizer / "tokenizer_config.json").read_text(encoding="utf-8"))
    del config["chat_template"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    spec = (tiny_tokenizer / "tokenizer.json").read_text(encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(spec, encoding="utf-8")
    alpaca, other = "alpaca_instruction", "deepseek_chat"
    assert source(tiny_tokenizer, path=Path(alpaca), fallback=other) == "alpaca_instruction.json"
    assert source(tiny_tokenizer, fallback=other) == str(tiny_tokenizer)
    assert source(tmp_path, fallback=other) == "chatml.jinja"
    (tmp_path / "tokenizer.json").write_text(spec.replace("im_start", "begin"), encoding="utf-8")
    assert source(tmp_path, fallback=other) == "deepseek_chat.json"
    with pytest.raises(TemplateError, match=r"template\.fallback"):
        source(tmp_path)


def test_every_mistake_in_a_json_template_is_named_at_once() -> None:
    wrong = {
        "sytem": "{{content}}",
        "user": "{{content}} {{content}}",
        "trim": "yes",
        "prefix": "{{bos}}",
        "default_system": "x",
    }
    with pytest.raises(TemplateError) as raised:
        to_jinja(json.dumps(wrong), "mine.json")
    said = [problem.message for problem in raised.value.problems]
    for words in ("system?", "once", "true or false", "{{bos}}", "assistant is missing", "beside it"):
        assert sum(words in message for message in said) == 1, (words, said)
    assert {problem.place for problem in raised.value.problems} == {"mine.json"}
    with pytest.raises(TemplateError, match=r"mine\.json:2"):
        to_jinja('{"user":\n nothing}', "mine.json")
    with pytest.raises(TemplateError, match="object"):
        to_jinja("[]", "mine.json")


def test_a_json_templates_texts_are_no_jinja(made: Made) -> None:
    fields = {"user": "it's {% if %} \\n {{content}}\t|", "assistant": "é: {{content}}{{eos_token}}"}
    [(context, answer)] = texts(made(to_jinja(json.dumps(fields), "")), user("q"), assistant("a"))
    assert context == "it's {% if %} \\n q\t|é: "
    assert answer == "a<|im_end|>"


def test_shipped_templates_are_all_readable() -> None:
    assert {"qwen2_chatml", "llama3_instruct", "chatglm3", "baichuan2_chat", "deepseek_chat"} < set(shipped())
    for path in shipped().values():
        assert "messages" in read(path)


@real
def test_the_json_is_jinja_beside_a_checkpoint(tmp_path: Path) -> None:
    """Other tools render it alike."""
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(ASSETS / "tokenizers" / "llama3")
    encoder = family("llama3", path=Path("llama3_instruct"))
    row = (Message("system", " s\n"), user("q\n\n"), assistant("a"), user("r"))
    said = [{"role": m.role, "content": m.content} for m in row]
    options = {"chat_template": encoder.template.text, "add_generation_prompt": True, "return_dict": False}
    assert encoder.context(Conversation(row)) == list(theirs.apply_chat_template(said, **options))


def test_a_template_for_tools_is_taken_where_there_are_tools(tiny_tokenizer: Path, tmp_path: Path) -> None:
    body = "{{ m.content }}{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}"
    for_tools = "{{ tools | tojson }}" + CHATML.replace("{{ m.content }}", body)
    (tmp_path / "tokenizer.json").write_bytes((tiny_tokenizer / "tokenizer.json").read_bytes())
    config = json.loads((tiny_tokenizer / "tokenizer_config.json").read_text(encoding="utf-8"))
    named = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": for_tools}]
    lists, folder = config | {"chat_template": named}, config | {"chat_template": CHATML}
    extra = tmp_path / "additional_chat_templates"
    for each in (lists, folder):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(each), encoding="utf-8")
        encoder = Encoder.load(tmp_path, TemplateSection())
        [(_context, answer)] = texts(encoder, user("q"), CALL, tools=(TOOL,))
        assert answer.startswith("<call>")
        assert "weather" not in texts(encoder, user("q"), assistant("a"))[0][0]
        extra.mkdir(exist_ok=True)
        (extra / "tool_use.jinja").write_text(for_tools + "\n", encoding="utf-8")


# --- reasoning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [CHATML, THINKS])
def test_no_thinking_puts_the_empty_block_into_the_context_untrained(made: Made, template: str) -> None:
    encoder = made(template, enable_thinking=False, thinking="strip")
    row = (user("q"), assistant("a", reasoning="r"), user("s"), assistant("b"))
    (first, one), (second, two) = texts(encoder, *row)
    assert (one, two) == ("a<|im_end|>", "b<|im_end|>")
    assert first.endswith("assistant\n<think>\n\n</think>\n\n")
    assert second.count("<think>") == 1
    assert texts(made(template), user("q"), assistant("a"))[0][0].endswith("assistant\n")


def test_a_template_that_takes_the_switch_gets_it(made: Made) -> None:
    switch = "<|im_start|>assistant\n{% if enable_thinking is false %}<think></think>{% endif %}"
    template = CHATML.replace("<|im_start|>assistant\n", switch)
    [(context, answer)] = texts(made(template, enable_thinking=False), user("q"), assistant("a"))
    assert context.endswith("assistant\n<think></think>")
    encoder = made(template)
    assert texts(encoder.with_thinking(False), user("q"), assistant("a"))[0][0] == context
    assert texts(encoder.with_thinking(None), user("q"), assistant("a"))[0][0].endswith("assistant\n")


@real
@pytest.mark.parametrize(
    ("name", "block"),
    [("qwen3", "<think>\n\n</think>\n\n"), ("gpt-oss", "<|channel|>final<|message|>")],
)
def test_no_thinking_in_the_familys_own_way(name: str, block: str) -> None:
    [(context, answer)] = texts(family(name, enable_thinking=False), user("q"), assistant("a"))
    assert context.endswith(block)
    assert answer in ("a<|im_end|>", "a<|return|>")


def test_thinking_kept_and_switched_off_is_a_contradiction() -> None:
    with pytest.raises(ValidationError, match="Choose one"):
        Config(template=TemplateSection(thinking="keep", enable_thinking=False))
    with pytest.raises(ValidationError, match=r"template\.kwargs"):
        Config(template=TemplateSection(kwargs={"enable_thinking": False}, enable_thinking=False))


def test_reasoning_without_a_place_is_one_line_for_the_whole_file(tiny_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    rows = [{"question": f"q{i}", "answer": f"<think>r</think>a{i}" if i else "a"} for i in range(4)]
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = [f"data.train={data}", f"model.name_or_path={tiny_folder}"]
    with pytest.raises(TemplateError) as raised:
        prepare(load(None, words).config, Voice())
    [problem] = raised.value.problems
    assert problem.place == f"{data}:2"
    assert problem.message.startswith("Rows hold reasoning, this one first")
    assert "keep" in problem.message
    assert "strip" in problem.message
    assert prepare(load(None, [*words, "template.thinking=keep"]).config, Voice()).train.answers == 4
    silent = [*words, "template.enable_thinking=false"]
    with pytest.raises(TemplateError, match=r"Rows hold reasoning, this one first.*enable_thinking"):
        prepare(load(None, silent).config, Voice())


def test_reasoning_in_a_column_beside_question_and_answer() -> None:
    from tunesmith.data.formats import get

    for name, row in (
        ("alpaca", {"instruction": "q", "input": "", "output": "a"}),
        ("question_answer", {"question": "q", "answer": "a"}),
    ):
        parsed = get(name).parse(row | {"thinking": "r"})
        assert parsed.messages[-1] == assistant("a", reasoning="r")
        assert "thinking" in parsed.claimed
        assert get(name).parse(row | {"thinking": 3}).messages[-1].reasoning is None


# --- system prompts ---------------------------------------------------------------------------------------------------

PERSONA = "You are the night porter."


def test_the_rows_own_system_prompt_then_the_settings_then_the_templates(made: Made) -> None:
    default = "{% if messages[0].role != 'system' %}<|im_start|>system\ndefault<|im_end|>\n{% endif %}" + CHATML
    for system, own, expected in ((PERSONA, "mine", "mine"), (PERSONA, None, PERSONA), (None, None, "default")):
        row = (*([Message("system", own)] if own else []), user("q"), assistant("a"))
        [(context, _answer)] = texts(made(default, system=system), *row)
        assert context.startswith(f"<|im_start|>system\n{expected}<|im_end|>")
        assert context.count("system") == 1


def test_a_persona_set_once_is_in_the_ids_of_training_and_of_chat(tiny_folder: Path, tmp_path: Path) -> None:
    """Never a system turn in training and other words in a user turn at inference."""
    from tunesmith.actions.opening import open_run
    from tunesmith.actions.train import train

    data = tmp_path / "data.jsonl"
    data.write_text('{"question": "q", "answer": "a"}\n{"question": "r", "answer": "b"}\n', encoding="utf-8")
    values = {"data.train": data, "model.name_or_path": tiny_folder, "training.output_dir": tmp_path / "run"}
    settings = ["training.max_steps=1", f"template.system={PERSONA}", "template.enable_thinking=false"]
    loaded = load(None, settings, values)
    trained = prepare(loaded.config, Voice()).train.encoded[0].answers[0]
    opened = open_run(str(train(loaded, Voice())), Voice())
    chat = opened.encoder.context(Conversation((user("q"),)))
    assert chat == trained.context_ids
    text = opened.encoder.decode(chat)
    assert PERSONA in text
    assert text.endswith("<think>\n\n</think>\n\n")
    assert opened.systems == (PERSONA,)


def test_a_system_prompt_with_columns_of_the_row(made: Made) -> None:
    encoder = made(CHATML, system="当前场景：{场景} {{x}}")
    [(context, _answer)] = texts(encoder, user("q"), assistant("a"), meta={"场景": "退款"})
    assert "当前场景：退款 {x}<|im_end|>" in context
    row = Conversation((user("q"), assistant("a")), origin=Origin("rows.jsonl", 7))
    code, reason = encoder.encode(row).error or ("", "")
    assert (code, "场景" in reason) == ("system", True)
    with pytest.raises(TemplateError, match=r"rows\.jsonl:7 .*template\.system"):
        encoder.context(row)
    with pytest.raises(DataError, match=r"template\.system"):
        made(CHATML, system='{"a": 1}')
    assert '{"a": 1}' in texts(made(CHATML, system='{{"a": 1}}'), user("q"), assistant("a"))[0][0]


def test_key_and_value_are_a_column_in_both_readings(made: Made, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    pair = {"key": "场景", "value": "新人留联", "conversation_pair": turns}
    column = {"场景": "新人留联", "conversation_pair": [*turns, *turns]}
    path = tmp_path / "data.json"
    path.write_text(json.dumps([pair, column]), encoding="utf-8")
    encoder = made(CHATML, system="{场景}")
    rows = dataset.load(path, DataSection(stratify_by="场景")).conversations
    prompts = [prompt.conversation for prompt in read_prompts(path, DataSection())[0]]
    for row in [*rows, *prompts]:
        assert row is not None
        assert row.meta["场景"] == "新人留联"
        assert encoder.ready.system_of(row) == "新人留联"


def test_several_system_messages_that_a_template_does_not_keep(made: Made) -> None:
    """DeepSeek-R1's template keeps the last one only."""
    last = "{% set ns = namespace(s='') %}{% for m in messages if m.role == 'system' %}{% set ns.s = m.content %}"
    template = last + "{% endfor %}{{ ns.s }}" + CHATML.replace("in messages", "in messages if m.role != 'system'")
    row = (Message("system", "one"), user("q"), assistant("a"), Message("system", "two"), user("r"), assistant("b"))
    error = made(template).encode(Conversation(row)).error
    assert error is not None
    assert "system messages" in error[1]
    assert len(texts(made(CHATML), *row)) == 2


# --- templates whose history changes once it is answered --------------------------------------------------------------


def test_a_system_prompt_that_moves_to_the_last_question(made: Made) -> None:
    """Mistral's template writes it into the last message, if that is a user's."""
    template = (
        "{% set s = messages[0].content if messages[0].role == 'system' else '' %}"
        "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}"
        "[INST] {{ (s + '\n\n' if loop.last and s else '') + m.content }}[/INST]"
        "{% else %} {{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    )
    row = (Message("system", "s"), user("q"), assistant("q"), user("q"), assistant("b"))
    (first, one), (second, two) = texts(made(template), *row)
    assert (first, one) == ("[INST] s\n\nq[/INST]", " q<|im_end|>")
    assert (second, two) == ("[INST] q[/INST] q<|im_end|>[INST] s\n\nq[/INST]", " b<|im_end|>")


@real
def test_gpt_oss_answers_behind_a_call_with_reasoning() -> None:
    call = Message("assistant", reasoning="look it up", tool_calls=CALL.tool_calls)
    row = (user("q"), call, Message("tool", '{"t": 3}', name="weather"), assistant("cold"))
    (_first, one), (second, two) = texts(family("gpt-oss"), *row, tools=(TOOL,))
    assert "look it up" in one
    assert "look it up" in second
    assert two == "<|channel|>final<|message|>cold<|return|>"


# --- all of a real file -----------------------------------------------------------------------------------------------


def check_crosswoz(name: str, thinking: str, rows: int | None) -> None:
    section = DataSection()
    conversations = dataset.load(ASSETS / "data/crosswoz/crosswoz.seed0.json", section).conversations[:rows]
    encoder = family(name, thinking=thinking)
    for conversation in conversations:
        found = encoder.encode(conversation)
        assert found.error is None, found.error
        assert [a.turn for a in found.answers] == conversation.trained_turns()
        for answer in found.answers:
            message = conversation.messages[answer.turn]
            trained = encoder.tokenizer.decode(answer.answer_ids, skip_special_tokens=False)
            block = f"<think>\n{(message.reasoning or '').strip()}\n</think>\n\n"
            if message.reasoning:
                assert trained.startswith(block) == (thinking == "keep"), trained
            assert trained.removeprefix(block).startswith(message.content.strip()) or thinking == "strip"
            history = encoder.tokenizer.decode(answer.context_ids, skip_special_tokens=False)
            assert "<think>" not in history


BOTH = pytest.mark.parametrize("thinking", ["keep", "strip"])
THREE = pytest.mark.parametrize("name", ["qwen3", "qwen2.5", "deepseek-r1-distill-qwen"])


@real
@THREE
@BOTH
def test_service_dialogues_train_with_and_without_their_reasoning(name: str, thinking: str) -> None:
    check_crosswoz(name, thinking, 8)


@real
@pytest.mark.long
@THREE
@BOTH
def test_all_service_dialogues_train_with_and_without_their_reasoning(name: str, thinking: str) -> None:
    check_crosswoz(name, thinking, None)
