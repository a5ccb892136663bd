"""Labels are exactly right: the vendors' own rendering, whatever users write, for every family."""

import json
import random
from functools import cache
from pathlib import Path

import pytest
from tokenizers import Tokenizer as RustTokenizer

from tunesmith.config.schema import TemplateSection
from tunesmith.conversation import Conversation, Message, ToolCall
from tunesmith.errors import TemplateError
from tunesmith.tokens.encode import Encoder
from tunesmith.tokens.forest import grow

ASSETS = Path(__file__).parents[2] / "shared" / "assets"
needs_assets = pytest.mark.skipif(not ASSETS.exists(), reason="real tokenizers lie in the shared folder, not here")
FAMILIES = [
    "baichuan2",
    "deepseek-llm",
    "deepseek-r1-distill-qwen",
    "gemma3",
    "gpt-oss",
    "llama3",
    "qwen2.5",
    "qwen3",
]
PLACE_FOR_REASONING = {"qwen3", "gpt-oss"}
END_OF_TURN = {"llama3": "<|eot_id|>"}  # its template goes on with the next header


@cache
def encoder(family, thinking=None):
    return Encoder.load(ASSETS / "tokenizers" / family, TemplateSection(thinking=thinking, date="2026-11-22"))


@cache
def vendor(family):
    return RustTokenizer.from_file(str(ASSETS / "tokenizers" / family / "tokenizer.json"))


def vendor_ids(family, text):
    return vendor(family).encode(text, add_special_tokens=False).ids


def user(text):
    return Message("user", text)


def assistant(text, **more):
    return Message("assistant", text, **more)


@needs_assets
@pytest.mark.parametrize("family", FAMILIES)
def test_every_answer_is_the_vendors(family):
    thinking = "keep" if family in PLACE_FOR_REASONING else "strip"
    for line in (ASSETS / "golden" / f"{family}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        messages = [Message(m["role"], m["content"], m.get("reasoning_content")) for m in row["messages"]]
        found = encoder(family, thinking).encode(Conversation(tuple(messages)))
        read_back = grow(found.answers).answers()
        assert [a.turn for a in found.answers] == [t["turn"] for t in row["turns"]]
        for (context, answer, weights), turn in zip(read_back, row["turns"], strict=True):
            text = turn["full"].removeprefix(turn["prompt"])
            if family in END_OF_TURN:
                text = text[: text.index(END_OF_TURN[family]) + len(END_OF_TURN[family])]
            elif family != "baichuan2":  # nothing but white space stands behind the end of turn
                text = text.rstrip("\n")
            expected = vendor_ids(family, text)
            if family == "baichuan2":
                expected.append(encoder(family, thinking).tokenizer.eos_id)
            assert context == vendor_ids(family, turn["prompt"]), row["case"]
            assert answer == expected, row["case"]
            assert weights == [1.0] * len(answer)


WORDS = [
    "hello",
    "你好",
    "  spaced  ",
    "\n",
    "\n\n",
    "",
    "👩‍👩‍👧‍👦",
    "1+1=2",
    "it's",
    "ö",
    "\t",
    "<b>",
    "naïve",
    "</s",
    "。",
    "a\nb",
]


def random_conversation(rng, family):
    """System, several turns, reasoning, control tokens in what users write, emoji, empty lines."""
    control = sorted(encoder(family).tokenizer.control)

    def text(least=0):
        parts = [rng.choice(WORDS + control[-40:] if rng.random() < 0.4 else WORDS) for _ in range(rng.randint(1, 6))]
        return " ".join(parts) + ("x" if least else "")

    messages = [Message("system", text(1))] if rng.random() < 0.5 else []
    for _ in range(rng.randint(1, 3)):
        messages.append(user(text(1)))
        reasoning = text(1) if rng.random() < 0.3 else None
        messages.append(assistant(text(1), reasoning=reasoning))
    return Conversation(tuple(messages))


def check_structure(family, conversation):
    """No text becomes a control id, none is lost, and the forest gives every context back."""
    made = encoder(family, "keep")
    found = made.encode(conversation)
    assert found.error is None, found.error
    tame = [Message(m.role, "x" if m.content else "", "x" if m.reasoning else None) for m in conversation.messages]
    expected = made.encode(Conversation(tuple(tame)))
    control = made.tokenizer.control_ids
    for answer, same in zip(found.answers, expected.answers, strict=True):
        for ids, others in ((answer.context_ids, same.context_ids), (answer.answer_ids, same.answer_ids)):
            assert [i for i in ids if i in control] == [i for i in others if i in control]
        content = conversation.messages[answer.turn].content.strip()
        decoded = made.tokenizer.decode(answer.answer_ids, skip_special_tokens=False)
        # the vendor's own decoding of DeepSeek's added token "ö" is a broken byte
        assert content in decoded or (family == "deepseek-llm" and "ö" in content)
    assert [c for c, _a, _w in grow(found.answers).answers()] == [a.context_ids for a in found.answers]


@needs_assets
@pytest.mark.parametrize("family", FAMILIES)
def test_random_conversations_keep_their_structure(family):
    rng = random.Random(7)
    for _ in range(125):
        check_structure(family, random_conversation(rng, family))


@needs_assets
@pytest.mark.parametrize("family", [*FAMILIES, "chatglm3-hf"])
def test_no_text_encodes_to_a_control_id(family):
    from tunesmith.tokens.tokenizer import Tokenizer

    tokenizer = Tokenizer(ASSETS / "tokenizers" / family)
    for token in tokenizer.control:
        for text in (token, f"a{token}b", f" {token} ", token * 2, f"{token}\n"):
            for continuation in (False, True):
                assert tokenizer.control_ids.isdisjoint(tokenizer.text_ids(text, continuation=continuation)), token


@needs_assets
@pytest.mark.parametrize("family", FAMILIES)
def test_ordinary_text_stays_as_it_is(family):
    """Also where ordinary added tokens stand in it: line breaks in Baichuan2, "ö" in DeepSeek, <h2> in Gemma."""
    tokenizer = encoder(family).tokenizer
    for text in ["line\n\nbreak\ttab", "schön, größer ÷", "<h2>title</h2><b>", "people philosophy", "  two  spaces "]:
        assert tokenizer.text_ids(text) == vendor_ids(family, text)


@needs_assets
@pytest.mark.parametrize("start", ["\n", " ", "\t", "\n\n  "])
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_that_begin_with_white_space(family, start):
    found = encoder(family).encode(Conversation((user("q"), assistant(f"{start}text"))))
    decoded = encoder(family).tokenizer.decode(found.answers[0].answer_ids)
    assert decoded.strip().endswith("text")
    context, answer = found.answers[0].context_ids, found.answers[0].answer_ids
    assert context == encoder(family).context(Conversation((user("q"),)))
    assert answer[-1] in encoder(family).stop_ids


@needs_assets
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - PLACE_FOR_REASONING))
def test_reasoning_without_a_place_needs_a_decision(family):
    row = Conversation((user("q"), assistant("a", reasoning="because"), user("r"), assistant("b", reasoning="since")))
    with pytest.raises(TemplateError, match=r"template\.thinking"):
        encoder(family).encode(row)
    kept = encoder(family, "keep").encode(row).answers
    text = [encoder(family).tokenizer.decode(a.answer_ids, skip_special_tokens=False) for a in kept]
    assert "because" in text[0]
    assert "since" in text[1]
    assert "because" not in encoder(family).tokenizer.decode(kept[1].context_ids)
    stripped = encoder(family, "strip").encode(row).answers
    assert "because" not in encoder(family).tokenizer.decode(stripped[0].answer_ids)


@needs_assets
@pytest.mark.parametrize("family", ["qwen3", "gpt-oss", "deepseek-r1-distill-qwen", "qwen2.5"])
def test_a_generated_answer_is_read_back(family):
    for reasoning in (None, "step by step"):
        message = assistant("the answer", reasoning=reasoning)
        found = encoder(family, "keep").encode(Conversation((user("q"), message))).answers[0]
        assert encoder(family, "keep").message(found.answer_ids) == message


@needs_assets
@pytest.mark.parametrize("family", ["qwen2.5", "qwen3", "gpt-oss"])
def test_tool_calls_are_trained_and_never_lost(family):
    tools = ({"type": "function", "function": {"name": "weather", "description": "d", "parameters": {}}},)
    call = ToolCall("weather", {"city": "北京<|im_end|>"})
    row = Conversation(
        (user("q"), assistant("", tool_calls=(call,)), Message("tool", '{"t": 3}', name="weather"), assistant("cold")),
        tools=tools,
    )
    found = encoder(family).encode(row)
    assert found.error is None
    text = encoder(family).tokenizer.decode(found.answers[0].answer_ids, skip_special_tokens=False)
    assert "weather" in text
    assert "北京" in text
    assert found.answers[0].answer_ids[-1] in encoder(family).stop_ids


@needs_assets
def test_a_template_without_tools_says_so():
    call = assistant("", tool_calls=(ToolCall("weather", {"city": "x"}),))
    row = Conversation((user("q"), call, Message("tool", "cold"), assistant("It is cold.")))
    error = encoder("llama3").encode(row).error
    assert error is not None
    assert "tool" in error[1]


@needs_assets
def test_a_template_that_refuses_a_row_is_quoted():
    error = encoder("gemma3").encode(Conversation((user("a"), user("b"), assistant("c")))).error
    assert error is not None
    assert error[0] == "template"
    assert "alternate" in error[1]


@needs_assets
def test_trimming_takes_whole_old_turns_and_never_an_answer():
    messages = [Message("system", "be brief")]
    for i in range(8):
        messages += [user(f"question number {i}"), assistant(f"answer number {i}")]
    row = Conversation(tuple(messages))
    made = encoder("qwen2.5")
    whole = made.encode(row).answers
    limit = len(whole[4])
    cut = made.encode(row, max_length=limit)
    assert cut.dropped == 0
    assert cut.trimmed == 3
    for full, short in zip(whole, cut.answers, strict=True):
        assert short.answer_ids == full.answer_ids
        assert len(short) <= limit
        assert "be brief" in made.decode(short.context_ids)
    assert made.encode(row, max_length=limit, overflow="drop").dropped == 3
    assert made.encode(row, max_length=8).dropped == 8


@needs_assets
def test_weights_of_messages_and_rows():
    heavy = Conversation((user("q"), assistant("a", weight=0.5), user("r"), assistant("b", weight=0)), weight=2.0)
    found = encoder("qwen2.5").encode(heavy).answers
    assert [a.turn for a in found] == [1]
    assert set(found[0].weights) == {1.0}


@needs_assets
def test_an_opening_answer_is_context():
    row = Conversation((assistant("welcome"), user("q"), assistant("a")))
    found = encoder("qwen2.5").encode(row)
    assert [a.turn for a in found.answers] == [2]
    assert "welcome" in encoder("qwen2.5").decode(found.answers[0].context_ids)


@needs_assets
def test_rendering_equals_transformers():
    """Our small Jinja environment against the library's, on every family's own template."""
    from transformers import AutoTokenizer

    for family in ("qwen3", "gemma3", "llama3"):
        theirs = AutoTokenizer.from_pretrained(ASSETS / "tokenizers" / family)
        messages = [Message("system", "s"), user(" q\n"), assistant("a"), user("r")]
        ids = theirs.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in messages], add_generation_prompt=True, return_dict=False
        )
        assert encoder(family).context(Conversation(tuple(messages))) == list(ids)


# --- templates of other families, in small: what they do that once broke a label -------------------------------------

HEAD, END = "{{ '<|im_start|>' + m.role + '\\n' }}", "{{ '<|im_end|>\\n' }}"
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
CALLS = "{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}"
TOOLS = ({"type": "function", "function": {"name": "weather", "description": "d", "parameters": {}}},)
WEATHER = ToolCall("weather", {"city": "北京"}, "call00001")


def chatml(body="{{ m.content }}" + CALLS, prompt=PROMPT, first="{{ tools or '' }}"):
    return f"{first}{{% for m in messages %}}{HEAD}{body}{END}{{% endfor %}}{prompt}"


@pytest.fixture
def made(tiny_tokenizer, tmp_path):
    """`made(template, *tokens)`: an encoder with this template, its tiny tokenizer with these control tokens added."""

    def make(template, *tokens, change=lambda spec: None, **section):
        spec = json.loads((tiny_tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
        change(spec)
        first = len(spec["model"]["vocab"])
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        spec["added_tokens"] += [plain | {"id": first + i, "content": token} for i, token in enumerate(tokens)]
        (tmp_path / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
        (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}', encoding="utf-8")
        (tmp_path / "mine.jinja").write_text(template, encoding="utf-8")
        return Encoder.load(tmp_path, TemplateSection(path=tmp_path / "mine.jinja", **section))

    return make


def texts(encoder, *messages, tools=()):
    """(context, answer) of each trained answer as text; the contexts are those of inference."""
    found = encoder.encode(Conversation(messages, tools))
    assert found.error is None, found.error
    for answer in found.answers:
        assert answer.context_ids == encoder.context(Conversation(messages[: answer.turn], tools))
        assert answer.answer_ids[-1] in encoder.stop_ids
    whole = [(a.context_ids, a.answer_ids) for a in found.answers]
    return [tuple(encoder.tokenizer.decode(ids, skip_special_tokens=False) for ids in pair) for pair in whole]


def refusal(encoder, *messages, tools=()):
    error = encoder.encode(Conversation(messages, tools)).error
    assert error is not None
    return error[1]


def control_in(encoder, conversation):
    [answer] = encoder.encode(conversation).answers
    ids = answer.context_ids + answer.answer_ids
    return [encoder.tokenizer.token_text(i) for i in ids if i in encoder.tokenizer.control_ids]


def test_reasoning_stands_before_a_call_and_before_white_space(made):
    """It once stood inside the call, before the tool's name."""
    encoder = made(chatml(), thinking="keep")
    [(_context, answer)] = texts(encoder, user("q"), assistant("", tool_calls=(WEATHER,), reasoning="r"))
    assert answer.startswith("<think>\nr\n</think>\n\n<call>{")
    [(_context, answer)] = texts(encoder, user("q"), assistant("\n\n a", reasoning="r"))
    assert answer == "<think>\nr\n</think>\n\n\n\n a<|im_end|>"


@pytest.mark.parametrize("thinking", ["keep", "strip"])
def test_a_generation_prompt_that_opens_the_reasoning(made, thinking):
    """QwQ and the newer DeepSeek-R1: the prompt ends with <think>, and an answer in the history has none."""
    encoder = made(chatml(prompt=PROMPT.replace("assistant\\n", "assistant\\n<think>\\n")), thinking=thinking)
    row = (user("q"), assistant("a", reasoning="r"), user("s"), assistant("\nb"))
    (first, one), (second, two) = texts(encoder, *row)
    assert first.endswith("assistant\n<think>\n")
    assert one == ("r" if thinking == "keep" else "") + "\n</think>\n\na<|im_end|>"
    assert "<|im_start|>assistant\na<|im_end|>" in second
    assert two == "\n</think>\n\n\nb<|im_end|>"
    for answer, message in zip(encoder.encode(Conversation(row)).answers, (row[1], row[3]), strict=True):
        expected = message if thinking == "keep" else assistant(message.content)
        assert encoder.message(answer.answer_ids) == expected


def test_calls_whose_template_wants_ids_of_nine_characters(made):
    """Mistral's refuses others, so a probe without one found no place for calls."""
    wants = "{% for c in m.tool_calls %}{% if c.id | length != 9 %}{{ raise_exception('nine') }}{% endif %}{% endfor %}"
    encoder = made(chatml("{{ m.content }}{% if m.tool_calls %}" + wants + CALLS + "{% endif %}"))
    assert "weather" in texts(encoder, user("q"), assistant("", tool_calls=(WEATHER,)))[0][1]
    assert "nine" in refusal(encoder, user("q"), assistant("", tool_calls=(ToolCall("weather", {}, "1"),)))


def test_no_call_and_no_message_is_lost_in_silence(made):
    """gpt-oss renders one call of several; DeepSeek's, Baichuan's and Phi-3's leave out what tools said."""
    encoder = made(chatml("{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls[0].function | tojson }}{% endif %}"))
    twice = assistant("", tool_calls=(WEATHER, ToolCall("weather", {"city": "Paris"}, "call00002")))
    assert "weather" in refusal(encoder, user("q"), twice)
    for role, template in (("tool", chatml()), ("system", chatml())):
        silent = made(template.replace("for m in messages", f"for m in messages if m.role != '{role}'"))
        assert role in refusal(silent, Message(role, "said"), user("q"), assistant("a"))
        assert texts(silent, user("q"), assistant("a"))


def test_marks_never_show_where_a_template_writes_python(made):
    """SmolLM3's writes tools as Python does, which spelled the marks out."""
    body = "{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | string }}{% endif %}"
    tool = {"type": "function", "function": {"name": "weather", "description": "a <|im_end|> b \\ufdd0"}}
    call = ToolCall("weather", {"<|im_end|>": "it's <|im_start|>"}, "call00001")
    encoder = made(chatml(body))
    [(context, answer)] = texts(encoder, user("q"), assistant("", tool_calls=(call,)), tools=(tool,))
    assert context.startswith(str([tool]))
    assert str(call.arguments) in answer
    row = Conversation((user("q"), assistant("", tool_calls=(call,))), (tool,))
    assert control_in(encoder, row) == ["<|im_start|>", "<|im_end|>", "<|im_start|>", "<|im_end|>"]


@pytest.mark.parametrize("system", ["/no_think", "Be brief. /no_think", "  Be brief.  "])
def test_a_template_that_edits_content_renders_as_without_marks(made, system):
    """SmolLM3 takes "/no_think" out of the system prompt, and writes it only if something is left."""
    first = (
        "{% set s = messages[0].content.replace('/no_think', '').rstrip() %}"
        "{% if s %}{{ '<|im_start|>system\\n' + s + '<|im_end|>\\n' }}{% endif %}"
    )
    template = chatml(first=first).replace("for m in messages", "for m in messages[1:]")
    encoder = made(template)
    row = (Message("system", system), user("q"), assistant("a"))
    left = system.replace("/no_think", "").rstrip()
    begin = f"<|im_start|>system\n{left}<|im_end|>\n" if left else ""
    asked = begin + "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    assert texts(encoder, *row) == [(asked, "a<|im_end|>")]
    assert encoder.rendered(Conversation(row)) == asked + "a<|im_end|>\n"


def test_texts_made_to_act_as_control(made):
    """Noncharacters that stand for control tokens inside, tokens within tokens, tokens of one character, names, ids."""
    template = chatml(
        "{{ (m.name or '') + (m.tool_call_id or '') + m.content }}" + CALLS + "{{ m.tool_calls | string }}"
    )
    encoder = made(template, "<<x>>", "<x>", "x>>", "☃", "\n\n\n")
    usual = control_in(encoder, Conversation((user("q"), assistant("a"))))
    first, *_rest = encoder.tokenizer.control.values()
    for text in (
        f"\ufdef{first}",
        "<<x>>>",
        "<x>><x>",
        "☃☃",
        "a\n\n\n\n\nb",
        "<|im_<|im_end|>end|>",
        "\ufdd2<|im_end|>",
    ):
        assert control_in(encoder, Conversation((user(f"q{text}"), assistant(f"a{text}b")))) == usual
        tool = Message("tool", "t", name=text, tool_call_id=text)
        assert control_in(encoder, Conversation((tool, user("q"), assistant("a"))))[4:] == usual[2:]
        call = assistant("", tool_calls=(ToolCall("f", {}, text),))
        assert control_in(encoder, Conversation((user("q"), call))) == usual
        role = Message(text.replace("\n", ""), "a")
        assert control_in(encoder, Conversation((role, user("q"), assistant("a"))))[2:] == usual
    assert "broken character" in refusal(encoder, user("\ud800"), assistant("a"))
    with pytest.raises(TemplateError, match="broken character"):
        encoder.context(Conversation((user("\ud800"),)))


def test_merges_that_spell_a_control_token_are_broken_wherever_they_overlap(made):
    def control_piece(spec):
        vocab = spec["model"]["vocab"]
        vocab["aa"] = vocab["aaa"] = 0
        vocab |= {"aa": len(vocab) - 2, "aaa": len(vocab) - 1}
        spec["model"]["vocab"] = vocab
        pair = isinstance(spec["model"]["merges"][0], list)
        spec["model"]["merges"] += [["a", "a"], ["aa", "a"]] if pair else ["a a", "aa a"]
        spec["added_tokens"].append(spec["added_tokens"][0] | {"id": vocab["aaa"], "content": "aaa"})

    tokenizer = made(chatml(), change=control_piece).tokenizer
    for n in range(1, 12):
        assert tokenizer.control_ids.isdisjoint(tokenizer.text_ids("a" * n))
        assert tokenizer.decode(tokenizer.text_ids("a" * n)) == "a" * n


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_a_prefix_space_stands_where_the_vendor_has_it(made, scheme):
    """Newer Llama and Mistral tokenizers put one before the whole text only."""

    def metaspace(spec):
        known = spec["model"]["vocab"]
        spec["model"]["vocab"] = {("▁" if key == "Ġ" else key): value for key, value in known.items()}
        spec["model"]["merges"] = []
        spec["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True}
        spec["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True}

    encoder = made("Chat" + chatml().replace("\\n", " "), change=metaspace)
    text = "Chat<|im_start|>user q<|im_end|> <|im_start|>assistant "
    context = encoder.context(Conversation((user("q"),)))
    assert context == encoder.tokenizer.full.encode(text, add_special_tokens=False).ids


def test_dots_in_a_template_are_no_marker(made):
    """Baichuan's tokenizer has "..." as an ordinary added token, and many templates say so in an error."""

    def dots(spec):
        spec["added_tokens"].append(spec["added_tokens"][0] | {"id": len(spec["model"]["vocab"]), "content": "..."})
        spec["added_tokens"][-1]["special"] = False

    encoder = made("{% if not messages %}{{ raise_exception('a/b/...') }}{% endif %}" + chatml(), change=dots)
    assert "..." not in encoder.tokenizer.control
    assert encoder.tokenizer.text_ids("...") == vendor_of(encoder, "...")


def vendor_of(encoder, text):
    return encoder.tokenizer.full.encode(text, add_special_tokens=False).ids


def test_an_answer_is_read_back_without_the_templates_white_space(made):
    """Llama 2 writes a space before its end of turn, templates without control tokens a line."""
    for template in (
        chatml("{{ m.content }} "),
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}",
    ):
        encoder = made(template)
        for text in ("a", "\na b", "a \n"):
            [answer] = encoder.encode(Conversation((user("q"), assistant(text)))).answers
            assert encoder.message(answer.answer_ids) == assistant(text)
