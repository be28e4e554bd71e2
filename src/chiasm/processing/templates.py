"""Chat templates: jinja2 in a sandbox, with the names that published templates expect and limits on what they cost.

A template comes with a checkpoint, so it is a stranger's program. It sees plain data only, can't reach Python's
internals, and every loop, call and joined string counts against a budget of steps, seconds and characters.

`{% generation %} … {% endgeneration %}` surrounds what an assistant said: with `marks` given, the two marks come out
around it, which is how supervised spans are found.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from chiasm.core.errors import PromptError

MAX_SOURCE = 1 << 20
MAX_OUTPUT = 1 << 24
MAX_STEPS = 2_000_000
MAX_SECONDS = 5.0
_MAX_TEXT = 1 << 24
_MAX_INTEGER = 1 << 64


class TemplateRefusal(jinja2.TemplateError):
    """The template itself says no, through `raise_exception`."""


class _TooMuch(jinja2.TemplateError):
    pass


class _Budget:
    """Steps and seconds left to one rendering."""

    def __init__(self, steps: int, seconds: float) -> None:
        self.steps, self.deadline = steps, time.monotonic() + seconds

    def spend(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise _TooMuch(f"it took over {MAX_STEPS} steps")
        if self.steps % 256 == 0 and time.monotonic() > self.deadline:
            raise _TooMuch(f"it ran over {MAX_SECONDS} seconds")


_budget: ContextVar[_Budget | None] = ContextVar("chiasm_template_budget", default=None)


def _spend() -> None:
    if (budget := _budget.get()) is not None:
        budget.spend()


def _checked(value: Any) -> Any:
    if isinstance(value, (str, bytes, list, tuple)) and len(value) > _MAX_TEXT:
        raise _TooMuch(f"it made a text of {len(value)} characters, over {_MAX_TEXT}")
    if isinstance(value, int) and abs(value) > _MAX_INTEGER:
        raise _TooMuch("it made a number of over 64 bits")
    return value


class _Environment(ImmutableSandboxedEnvironment):
    """jinja2's sandbox, with every call and every growing operation counted."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        _spend()
        for value in (*args, *kwargs.values()):
            if isinstance(value, int) and abs(value) > _MAX_TEXT:
                raise _TooMuch(f"it called something with the number {value}, over {_MAX_TEXT}")
        return _checked(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:  # noqa: D102
        if operator == "*":
            for text, times in ((left, right), (right, left)):
                if isinstance(text, (str, list, tuple)) and isinstance(times, int) and len(text) * times > _MAX_TEXT:
                    raise _TooMuch(f"it made a text of {len(text) * times} characters, over {_MAX_TEXT}")
        if operator == "**" and isinstance(right, int) and right > 64:
            raise _TooMuch(f"it raised a number to the power {right}, over 64")
        if operator == "%" and isinstance(left, str) and any(part[:1].isdigit() for part in left.split("%")[1:]):
            raise _TooMuch("it used a printf format with a width")
        return _checked(super().call_binop(context, operator, left, right))


class _Counting(NodeTransformer):
    """Send every loop's items and every `~` through filters that count."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "_counted", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, "_joined", [], [], None, None, lineno=node.lineno)


class _Generation(Extension):
    """`{% generation %}`: the part of a turn that the model is to learn."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:  # noqa: D102
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_marked", [nodes.ContextReference()], lineno=line)
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _marked(self, context: Any, caller: Callable[[], str]) -> str:
        opening, closing = context.get("_generation_marks") or ("", "")
        return f"{opening}{caller()}{closing}"


class _PlainNamespace(Namespace):
    """`namespace()` without underscored names, which lead to Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, rest = args[0], args[1:]
        values = dict(*rest, **kwargs)
        for name in values:
            _refuse_underscore(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


def _refuse_underscore(name: Any) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace can't hold the name {name!r}")


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A compiled chat template.

    Args:
        source: jinja2 source.

    Raises:
        PromptError: the source is no valid template, or too long.
    """

    source: str

    def __post_init__(self) -> None:
        _compile(self.source)

    @property
    def has_generation(self) -> bool:
        """The template marks the assistant's words itself."""
        return _compile(self.source)[1]

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = False,
        variables: Mapping[str, Any] | None = None,
        marks: tuple[str, str] | None = None,
    ) -> str:
        """Render a conversation.

        Args:
            messages: turns as plain data, `{"role": …, "content": text or parts}`.
            add_generation_prompt: end with the opening of the assistant's turn.
            variables: further names, such as `bos_token`.
            marks: strings put before and after what `{% generation %}` surrounds.

        Returns:
            The prompt.

        Raises:
            PromptError: the template refuses the conversation, fails, or takes too much.
        """
        template, _ = _compile(self.source)
        names: dict[str, Any] = {"tools": None, "documents": None, **(variables or {})}
        names |= {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
        token = _budget.set(_Budget(MAX_STEPS, MAX_SECONDS))
        pieces, length = [], 0
        try:
            for piece in template.generate(**names, _generation_marks=marks):
                _spend()
                pieces.append(piece)
                length += len(piece)
                if length > MAX_OUTPUT:
                    raise _TooMuch(f"it wrote over {MAX_OUTPUT} characters")
        except TemplateRefusal as error:
            raise PromptError("template_refused", f"the chat template says: {_one_line(error)}") from error
        except _TooMuch as error:
            raise PromptError("template_too_costly", f"the chat template was stopped: {_one_line(error)}") from error
        except (jinja2.TemplateError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError,
                AttributeError, MemoryError) as error:  # fmt: skip
            what = f"the chat template failed: {type(error).__name__}: {_one_line(error)}"
            raise PromptError("template_failed", what) from error
        finally:
            _budget.reset(token)
        return "".join(pieces)


@lru_cache(maxsize=64)
def _compile(source: str) -> tuple[jinja2.Template, bool]:
    if len(source) > MAX_SOURCE:
        raise PromptError("template_too_costly", f"the chat template has {len(source)} characters, over {MAX_SOURCE}")
    environment = _environment()
    try:
        tree = environment.parse(source)
        marked = any(call.identifier == _Generation.identifier for call in tree.find_all(nodes.ExtensionAttribute))
        return environment.from_string(_Counting().visit(tree)), marked
    except (jinja2.TemplateError, RecursionError, SyntaxError) as error:
        line = f" at line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
        raise PromptError("template_malformed", f"the chat template can't be read{line}: {_one_line(error)}") from error


@lru_cache(maxsize=1)
def _environment() -> _Environment:
    extensions: list[str | type[Extension]] = [_Generation, "jinja2.ext.loopcontrols"]
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters |= {"_counted": _counted, "_joined": _joined, "tojson": _tojson}
    environment.globals |= {
        "raise_exception": _refuse,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "namespace": _PlainNamespace,
    }
    return environment


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _spend()
        yield item


def _joined(parts: Sequence[Any]) -> str:
    _spend()
    return _checked("".join(str(part) for part in parts))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise TemplateRefusal(str(message))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
