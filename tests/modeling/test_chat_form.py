"""The chat form: one function puts a data set's prompt into the model's own template, with one start token and a clean border to the answer."""

import shutil

import pytest

from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import models
from cancerllm_utils.tasks.task import alpaca_prompt, model_prompt

TEMPLATE = "{{ bos_token }}{% for turn in messages %}[{{ turn.role }}]\n{{ turn.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]\n{% endif %}"
PROMPT = alpaca_prompt("Answer the question.", "In the text: {a brace} and\n\n### Input:\nonce more. What is the laterality?")


@pytest.fixture
def chat_model(tiny_model_dir, tmp_path, monkeypatch):
    """Adds a model to models.yaml whose prompt form is chat; called with the template of its tokenizer."""

    def make(template: str) -> str:
        shutil.copytree(tiny_model_dir, tmp_path / "chatty")
        if template:
            (tmp_path / "chatty" / "chat_template.jinja").write_text(template)
        entry = {"path": str(tmp_path / "chatty"), "prompt": "chat"}
        monkeypatch.setattr(models, "all_entries", lambda: {"chatty": entry})
        return "chatty"

    return make


def test_the_chat_form_keeps_every_word_and_has_one_start_token(chat_model):
    tokenizer = models.load_tokenizer(chat_model(TEMPLATE))
    text = model_prompt(PROMPT, tokenizer)
    assert text == "[user]\nAnswer the question.\n\nIn the text: {a brace} and\n\n### Input:\nonce more. What is the laterality?\n[assistant]\n"
    ids = tokenizer(text)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
    assert tokenizer(text + "Right")["input_ids"][: len(ids)] == ids, "the prompt's tokens must be the beginning of prompt + answer"


def test_a_tokenizer_that_adds_no_start_token_keeps_the_templates(chat_model):
    tokenizer = models.load_tokenizer(chat_model(TEMPLATE))
    tokenizer.backend_tokenizer.post_processor = None
    ids = tokenizer(model_prompt(PROMPT, tokenizer))["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id


def test_the_alpaca_form_is_left_as_it_is(tiny_model_dir):
    assert model_prompt(PROMPT, models.load_tokenizer(tiny_model_dir)) == PROMPT


def test_chat_without_a_template_is_refused(chat_model):
    with pytest.raises(UserError, match="no chat template"):
        models.load_tokenizer(chat_model(""))
