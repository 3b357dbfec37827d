"""How errors are told: in the shape of OpenAI's API."""

from typing import Literal

from pydantic import Field

from keytoll.http.contract.common import Answer


class ProblemDetail(Answer):
    """What is wrong, for people (`message`) and for programs. `param` names the field at fault, null if none is."""

    message: str = Field(examples=["name: is required"])
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    code: str | None


class Problem(Answer):
    """An error."""

    error: ProblemDetail
