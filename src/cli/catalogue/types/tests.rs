//! Projects as their authors write them.

use std::fmt::Write as _;

use super::super::{as_toml, classes};
use super::*;

/// Files by name, and what comes of them: TOML, then a line for each problem.
fn catalogue(files: &[(&str, &str)]) -> String {
    let file = |(name, text): &(&str, &str)| File {
        name: (*name).to_owned(),
        module: classes::module(&logical_lines(text).0),
    };
    let files: Vec<_> = files.iter().map(file).collect();
    let (declared, problems) = event_types(&files);
    let mut text = as_toml(&declared);
    for Problem { file, line, problem } in problems {
        let _ok = writeln!(text, "{file}:{line}: {problem}");
    }
    text
}

const KINDS: &str = r#"
from gmfy import BaseEventAction, BaseEventType

class EventType(BaseEventType):
    subscription = "subscription"
    register = "register"
    visit_user = "visit_user"

class EventAction(BaseEventAction):
    create = "create"
    remove = "remove"
"#;

#[test]
fn the_three_kinds_as_the_client_documents_them() {
    let events = r"
from typing import Literal
from gmfy import BaseActionEvent, BaseEvent, BaseUniqueEvent
from pydantic import Field
from .kinds import EventType

class RegisterEvent(BaseEvent):
    event_type: Literal[EventType.register] = Field(exclude=True)

class SubscriptionEvent(BaseActionEvent):
    event_type: Literal[EventType.subscription] = Field(exclude=True)

class VisitUserEvent(BaseUniqueEvent):
    event_type: Literal[EventType.visit_user] = Field(exclude=True)
";
    let project = [("app/events.py", events), ("app/kinds.py", KINDS)];
    insta::assert_snapshot!(catalogue(&project), @r#"
    [events.types]
    # RegisterEvent, app/events.py:7
    register = { kind = "classic" }
    # SubscriptionEvent, app/events.py:10
    subscription = { kind = "action", actions = ["create", "remove"] }
    # VisitUserEvent, app/events.py:13
    visit_user = { kind = "unique" }
    "#);
}

#[test]
fn classes_by_way_of_others_under_other_names() {
    let base = r#"
import enum
import gmfy as g

class BaseOurs(g.BaseUniqueEvent):
    event_type: "typing.Literal['seen', \"heard\"]"

class Kind(g.BaseEventType):
    _ignore_ = "x"
    Like_It = enum.auto()
    ORDER = "order " "v2"
"#;
    let events = r"
from gmfy.base_events import BaseActionEvent as Action, BaseEvent
from app import base
from app.base import BaseOurs as Ours, Kind as K

class Seen(Mixin, Ours): ...
class Liked(BaseEvent): event_type: Literal[K.Like_It.value]
class Order(Action, Generic[T]):
    event_action: Literal['pay', None] | None = None
    event_action: Annotated[Literal['pay', 'ship'], 1] = None
    event_type: t.Literal[base.Kind.ORDER]
class NotOurs(pydantic.BaseModel):
    event_type: Literal['x']
class Circle(Circle): pass
class There(Back, Back): pass
class Back(There, There): pass
";
    let project = [("app/base.py", base), ("app/events.py", events)];
    insta::assert_snapshot!(catalogue(&project), @r#"
    [events.types]
    # Seen, app/events.py:6
    heard = { kind = "unique" }
    # Liked, app/events.py:7
    like_it = { kind = "classic" }
    # Order, app/events.py:8
    "order v2" = { kind = "action", actions = ["pay", "ship"] }
    # Seen, app/events.py:6
    seen = { kind = "unique" }
    "#);
}

#[test]
fn what_is_not_understood_is_told_with_its_place() {
    let events = r#"
from gmfy import *
class A(BaseEvent):
    event_type: Literal[make()]
class B(BaseEvent):
    event_type: str = "b"
class C(BaseEvent):
    pass
class D(BaseActionEvent):
    event_type: Literal["d"]
class E(BaseEvent):
    event_type: Literal[Gone.e]
class F(BaseEvent):
    event_type: Literal["f"]
class G(BaseUniqueEvent):
    event_type: Literal["f"]
class H(BaseActionEvent):
    event_type: Literal["h"]
    event_action: str
class I(BaseEvent):
    event_type: Literal[Kind.i]
class Kind(BaseEventType):
    i = 1 + 1
"#;
    insta::assert_snapshot!(catalogue(&[("e.py", events)]), @r#"
    [events.types]
    # F, e.py:13
    f = { kind = "classic" }
    e.py:4: event_type of A: only strings and members of enums are understood
    e.py:6: event_type of B: expected `Literal[…]` as its annotation
    e.py:7: C has no `event_type: Literal[…]`, its own or inherited
    e.py:9: no action of D is found: neither `event_action: Literal[…]` nor members of a BaseEventAction
    e.py:12: event_type of E: Gone.e is no member of an enum in this folder
    e.py:15: G declares "f" as another kind than e.py:13 does
    e.py:19: event_action of H: expected `Literal[…]` as its annotation
    e.py:21: event_type of I: Kind.i is neither a string nor auto()
    "#);
}

#[test]
fn another_class_of_the_same_name_is_none_of_ours() {
    let other = "class BaseEvent:\n    pass\nclass X(BaseEvent):\n    event_type: Literal['x']\n";
    let ours = "from gmfy import BaseEvent\nclass Y(BaseEvent):\n    event_type: Literal['y']\n";
    insta::assert_snapshot!(catalogue(&[("a.py", other), ("b.py", ours)]), @r#"
    [events.types]
    # Y, b.py:2
    y = { kind = "classic" }
    "#);
}

mod any_text {
    use proptest::prelude::*;

    use super::*;

    /// Pieces that mean something here, in any order, and any characters.
    fn source() -> impl Strategy<Value = String> {
        let pieces = [
            "class A(BaseEvent):\n",
            "class B(A, C):",
            "    ",
            "\t",
            "\n",
            "event_type",
            ": ",
            "=",
            "Literal[",
            "]",
            "(",
            ")",
            "'",
            "\"",
            "\"\"\"",
            "\\",
            "#",
            ";",
            "A",
            "B",
            ".",
            ",",
            "from gmfy import ",
            "import ",
            " as ",
            "auto()",
            "event_action",
            "'x'",
            "f'",
            "\\u00",
        ];
        let piece = prop_oneof![
            8 => proptest::sample::select(pieces.to_vec()).prop_map(str::to_owned),
            1 => any::<String>(),
        ];
        proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn is_read_without_a_panic_and_what_comes_of_it_is_a_settings_file(text in source()) {
            let all = format!("{text}\n{KINDS}");
            let (lines, _) = logical_lines(&all);
            let numbers = lines.iter().map(|line| line.number).collect::<Vec<_>>();
            prop_assert!(numbers.is_sorted());
            let last = all.matches('\n').count() + 1;
            prop_assert!(numbers.last().is_none_or(|number| *number <= last));
            let files = [File { name: "a.py".to_owned(), module: classes::module(&lines) }];
            let (declared, problems) = event_types(&files);
            prop_assert!(problems.iter().all(|problem| problem.line <= last));
            toml::from_str::<toml::Table>(&as_toml(&declared)).unwrap();
        }
    }
}
