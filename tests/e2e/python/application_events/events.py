"""One class of each kind, and one with fields of its own."""

from typing import Literal

from gmfy.base_events import BaseActionEvent, BaseEvent, BaseUniqueEvent
from pydantic import Field


class Register(BaseEvent):
    event_type: Literal["register"] = Field(exclude=True)


class Subscription(BaseActionEvent):
    event_type: Literal["subscription"] = Field(exclude=True)
    event_action: Literal["create", "remove"] = Field(exclude=True)


class VisitUser(BaseUniqueEvent):
    event_type: Literal["visit_user"] = Field(exclude=True)


class Purchase(BaseEvent):
    event_type: Literal["purchase"] = Field(exclude=True)
    order_total: float
    order_note: str | None = None
