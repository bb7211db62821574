"""Everything that can go wrong, as one tree; each leaf carries its HTTP status and stable reason code.

    OutriderError
    ├── RequestError                    the tenant's request is at fault; nothing was run
    │   ├── InvalidRequest              400  a field is missing, of a wrong type, or out of range
    │   ├── UnsupportedParameter        400  a parameter of OpenAI's API that this endpoint does not serve
    │   ├── ContextLengthExceeded       400  prompt plus requested tokens do not fit the context
    │   ├── InvalidKey                  401  no key, an unknown key, or a revoked one
    │   ├── ModelNotAllowed             403  the tenant's policy does not grant the model
    │   ├── BudgetExhausted             403  the request's own money budget cannot pay for its prompt
    │   ├── ModelNotFound               404  no such model behind this endpoint
    │   ├── RouteNotFound               404  no such path
    │   ├── MethodNotAllowed            405  the path exists, not with that method
    │   └── RequestTooLarge             413  the body has more bytes than the gateway reads
    ├── CapacityError                   the platform cannot take the request now; trying later may help
    │   ├── NoFeasibleRoute             429  no candidate meets the request's hard limits at present load
    │   ├── Overloaded                  429  the queue of every candidate is full
    │   └── NotReady                    503  no healthy target, or the gateway is draining
    ├── ConfigurationError              an operator's file or setting is at fault; refused at start
    │   ├── PolicyError                 a policy document does not load; names file, line, column, field
    │   ├── ModelDirectoryError         a model directory is missing, incomplete or of an unsupported kind
    │   ├── DrafterMismatch             a drafter was not made for this target
    │   ├── CurveError                  a step-cost curve is flat, empty or not monotone
    │   └── PortInUse                   the HTTP port is taken
    └── RuntimeFault                    500/503  a part of the platform failed while serving
        ├── LinkError                   the draft link broke or timed out; the target goes on at depth 0
        ├── TargetLost                  503  the target replica died; the stream cannot go on
        ├── EngineFault                 500  a step failed
        └── OutOfBlocks                 500  a block pool was asked for more than it promised

`GeneratorExit` and cancellation are not errors. Lower-layer exceptions are mapped where the layer is called.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BudgetExhausted",
    "CapacityError",
    "ConfigurationError",
    "ContextLengthExceeded",
    "CurveError",
    "DrafterMismatch",
    "EngineFault",
    "InvalidKey",
    "InvalidRequest",
    "LinkError",
    "MethodNotAllowed",
    "ModelDirectoryError",
    "ModelNotAllowed",
    "ModelNotFound",
    "NoFeasibleRoute",
    "NotReady",
    "OutOfBlocks",
    "OutriderError",
    "Overloaded",
    "PolicyError",
    "PortInUse",
    "RequestError",
    "RequestTooLarge",
    "RouteNotFound",
    "RuntimeFault",
    "TargetLost",
    "UnsupportedParameter",
]


class OutriderError(Exception):
    """Root of the tree. `message` is fit for a tenant's eyes: no traceback, no path of this machine.

    `param` names the offending field, if one does. `retry_after_s` tells when trying again may help.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        """Keyword arguments survive pickling: errors cross process borders."""
        return (_rebuild, (type(self), self.message, self.param, self.retry_after_s))


def _rebuild(kind: type[OutriderError], message: str, param: str | None, retry_after_s: float | None) -> OutriderError:
    return kind(message, param=param, retry_after_s=retry_after_s)


class RequestError(OutriderError):
    """The tenant's request is at fault; nothing was run."""

    status = 400
    code = "invalid_request"
    type = "invalid_request_error"


class InvalidRequest(RequestError):
    """A field of the body or a header is missing, of a wrong type, unknown or out of range."""


class UnsupportedParameter(RequestError):
    """A parameter of OpenAI's API that this endpoint does not serve, set to more than its neutral value."""

    code = "unsupported_parameter"


class ContextLengthExceeded(RequestError):
    """The prompt alone, or with the requested tokens, does not fit the model's context."""

    code = "context_length_exceeded"


class InvalidKey(RequestError):
    """No key was sent, or one that no tenant of the policy owns."""

    status = 401
    code = "invalid_api_key"
    type = "authentication_error"


class ModelNotAllowed(RequestError):
    """The tenant's policy does not grant the model."""

    status = 403
    code = "model_not_allowed"
    type = "permission_error"


class BudgetExhausted(RequestError):
    """The request's money budget does not pay for its prompt and one token."""

    status = 403
    code = "budget_exhausted"
    type = "permission_error"


class ModelNotFound(RequestError):
    """No model of that name stands behind this endpoint."""

    status = 404
    code = "model_not_found"


class RouteNotFound(RequestError):
    """No such path."""

    status = 404
    code = "route_not_found"


class MethodNotAllowed(RequestError):
    """The path exists, but not with that method."""

    status = 405
    code = "method_not_allowed"


class RequestTooLarge(RequestError):
    """The body has more bytes than the gateway reads."""

    status = 413
    code = "request_too_large"


class CapacityError(OutriderError):
    """The platform cannot take the request now; trying later may help."""

    status = 429
    code = "overloaded"
    type = "rate_limit_error"


class NoFeasibleRoute(CapacityError):
    """No candidate meets the request's hard limits under the present load."""

    code = "no_feasible_route"


class Overloaded(CapacityError):
    """The queue of every candidate is full."""


class NotReady(CapacityError):
    """No healthy target stands behind the model, or the gateway is draining."""

    status = 503
    code = "not_ready"
    type = "server_error"


class ConfigurationError(OutriderError):
    """An operator's file or setting is at fault; refused before anything starts."""

    code = "configuration_error"


class PolicyError(ConfigurationError):
    """A policy document does not load. The message names file, line, column, field and the fix."""

    code = "policy_error"


class ModelDirectoryError(ConfigurationError):
    """A model directory is missing, incomplete, or holds a kind of model that is not supported."""

    code = "model_directory_error"


class DrafterMismatch(ConfigurationError):
    """A drafter was not made for this target: vocabulary, hidden size or tapped layers disagree."""

    code = "drafter_mismatch"


class CurveError(ConfigurationError):
    """A step-cost curve is flat, empty or decreasing: a planner would verify everything with it."""

    code = "curve_error"


class PortInUse(ConfigurationError):
    """The HTTP port is taken by another process."""

    code = "port_in_use"


class RuntimeFault(OutriderError):
    """A part of the platform failed while serving."""

    code = "runtime_fault"


class LinkError(RuntimeFault):
    """The draft link broke, timed out or carried a malformed message; the target goes on at depth 0."""

    code = "link_error"


class TargetLost(RuntimeFault):
    """The target replica died or restarted while the stream was open."""

    status = 503
    code = "target_lost"


class EngineFault(RuntimeFault):
    """A step failed; the requests in it end with this error and the engine goes on."""

    code = "engine_fault"


class OutOfBlocks(RuntimeFault):
    """A block pool was asked for more blocks than are free: admission promised too much."""

    code = "out_of_blocks"
