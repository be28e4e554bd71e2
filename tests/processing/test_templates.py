"""Chat templates: what they may say, what they can't reach, and what stops them."""

import time

import pytest

from chiasm.core.errors import PromptError
from chiasm.processing.templates import ChatTemplate

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


def test_blocks_leave_no_blank_lines():
    source = "{% for message in messages %}\n    {% if true %}\n{{ message.content }}\n    {% endif %}\n{% endfor %}\n"
    assert ChatTemplate(source).render(MESSAGES) == "hi\nyo\n"


def test_names_that_templates_expect():
    render = ChatTemplate("{{ bos_token }}{{ {'a': 'é<'} | tojson }}{{ strftime_now('%Y') | length }}").render
    assert render(MESSAGES, variables={"bos_token": "<s>"}) == '<s>{"a": "é<"}4'
    source = (
        "{% set seen = namespace(n=0) %}{% for m in messages %}{% set seen.n = seen.n + 1 %}{% endfor %}{{ seen.n }}"
    )
    assert ChatTemplate(source).render(MESSAGES) == "2"
    source = (
        "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ loop.index ~ '/' ~ loop.length }}"
        "{% endfor %}"
    )
    assert ChatTemplate(source).render(MESSAGES) == "1/2"


def test_generation_marks_surround_the_assistant():
    source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %};{% endfor %}"
    template = ChatTemplate(source)
    assert template.has_generation
    assert template.render(MESSAGES) == "hi;yo;"
    assert template.render(MESSAGES, marks=("(", ")")) == "(hi);(yo);"
    assert not ChatTemplate("{{ messages }}").has_generation


def test_a_refusal_is_one_line():
    with pytest.raises(PromptError, match="roles must alternate strictly") as caught:
        ChatTemplate("{{ raise_exception('roles must\nalternate strictly') }}").render(MESSAGES)
    assert caught.value.code == "template_refused" and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages.nothing.here }}",
        "{% set n = namespace(_x=1) %}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ 1 / 0 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_failures_become_prompt_errors(source):
    with pytest.raises(PromptError) as caught:
        ChatTemplate(source).render(MESSAGES)
    assert caught.value.code == "template_failed" and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% set s = namespace(x='ab') %}{% for i in range(60) %}{% set s.x = s.x ~ s.x %}{% endfor %}",
        "{% set s = namespace(x='ab') %}{% for i in range(60) %}{% set s.x = s.x + s.x %}{% endfor %}",
        "{{ 'a' * 10 ** 9 }}",
        "{{ 'a'.ljust(10 ** 9) }}",
        "{{ '%99999999d' % 1 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{% for i in range(9999) %}{{ 'a' * 9999 }}{% endfor %}",
    ],
)
def test_costly_templates_are_stopped(source):
    start = time.monotonic()
    with pytest.raises(PromptError, match="stopped"):
        ChatTemplate(source).render(MESSAGES)
    assert time.monotonic() - start < 30


def test_a_malformed_template_names_its_line():
    with pytest.raises(PromptError, match="at line 2"):
        ChatTemplate("fine\n{% for %}")
