"""Everything that can go wrong, as one tree; each leaf carries its HTTP status and stable reason code.

    OutriderError
    ├── RequestError                    the tenant's request is at fault; nothing was run
    │   ├── InvalidRequest              400  a field is missing, of a wrong type, or out of range
    │   ├── UnsupportedParameter        400  a parameter of OpenAI's API that this endpoint does not serve
    │   ├── NothingAllowed              400  what a request forbids left no token to go on with; its stream ended there
    │   ├── ContextLengthExceeded       400  prompt plus requested tokens do not fit the context
    │   ├── InvalidKey                  401  no key, an unknown key, or a revoked one
    │   ├── ModelNotAllowed             403  the tenant's policy does not grant the model
    │   ├── BudgetExhausted             403  a money budget (the request's, tenant's or team's) cannot pay for it
    │   ├── NotAnOperator               403  the key is good, but not for what it was used for
    │   ├── ModelNotFound               404  no such model behind this endpoint
    │   ├── RouteNotFound               404  no such path
    │   ├── WorkflowNotFound            404  the tenant has no finished request of that workflow
    │   ├── MethodNotAllowed            405  the path exists, not with that method
    │   └── RequestTooLarge             413  the body has more bytes than the gateway reads
    ├── CapacityError                   the platform cannot take the request now; trying later may help
    │   ├── NoFeasibleRoute             429  no candidate meets the request's hard limits at present load
    │   ├── Overloaded                  429  every queue is full, or a more important request took its place
    │   ├── RateLimited                 429  a tenant's or team's requests or tokens per minute are used up
    │   ├── ConcurrencyLimited          429  a tenant or team has as many requests open as it may
    │   ├── AccountingUnavailable       503  nobody can say whether the money is there; nothing was run
    │   └── NotReady                    503  no healthy target, or the gateway is draining
    ├── ConfigurationError              an operator's file or setting is at fault; refused at start
    │   ├── PolicyError                 a policy document does not load; names file, line, column, field
    │   ├── PolicyConflict              a policy was changed by somebody else meanwhile, or no such version is kept
    │   ├── DatabaseError               the database cannot be reached, opened, migrated or written
    │   ├── ModelDirectoryError         a model directory is missing, incomplete or of an unsupported kind
    │   ├── DrafterMismatch             a drafter was not made for this target
    │   ├── CurveError                  a step-cost curve is flat, empty or not monotone
    │   ├── SuiteError                  an eval suite or one of its items does not load; names file, line, field
    │   ├── EvalMismatch                eval outcomes of another suite, model or setting than asked for
    │   ├── QualityFileError            a file of quality estimates is missing, damaged or of another kind or version
    │   ├── PortInUse                   the HTTP port is taken
    │   ├── RecipeError                 a drafter recipe does not load, or does not fit its target
    │   ├── DataError                   prompts or answers are unreadable, empty or do not fit the context
    │   ├── ArtifactMissing             a stage was asked to start before the one it reads from has finished
    │   ├── ArtifactMismatch            an artifact was made from other inputs or settings than the recipe's
    │   ├── ArtifactBroken              a file of an artifact is missing, truncated or was changed
    │   ├── NotEnoughDisk               the disk cannot hold what is to be written
    │   ├── OutputNotWritable           files cannot be written where they are to go
    │   └── MissingExtra                an optional dependency is not installed
    └── RuntimeFault                    500/503  a part of the platform failed while serving
        ├── LinkError                   the draft link broke or timed out; the target goes on at depth 0
        ├── EndpointError               502  an endpoint under evaluation refuses everything, or is gone
        ├── TargetLost                  503  the target replica died; the stream cannot go on
        ├── EngineFault                 500  a step failed
        ├── OutOfBlocks                 500  a block pool was asked for more than it promised
        └── TrainingDiverged            500  a loss is no longer a finite number; the last checkpoint is kept

`GeneratorExit` and cancellation are not errors. Lower-layer exceptions are mapped where the layer is called.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AccountingUnavailable",
    "ArtifactBroken",
    "ArtifactMismatch",
    "ArtifactMissing",
    "BudgetExhausted",
    "CapacityError",
    "ConcurrencyLimited",
    "ConfigurationError",
    "ContextLengthExceeded",
    "CurveError",
    "DataError",
    "DatabaseError",
    "DrafterMismatch",
    "EndpointError",
    "EngineFault",
    "EvalMismatch",
    "InvalidKey",
    "InvalidRequest",
    "LinkError",
    "MethodNotAllowed",
    "MissingExtra",
    "ModelDirectoryError",
    "ModelNotAllowed",
    "ModelNotFound",
    "NoFeasibleRoute",
    "NotAnOperator",
    "NotEnoughDisk",
    "NotReady",
    "NothingAllowed",
    "OutOfBlocks",
    "OutputNotWritable",
    "OutriderError",
    "Overloaded",
    "PolicyConflict",
    "PolicyError",
    "PortInUse",
    "QualityFileError",
    "RateLimited",
    "RecipeError",
    "RequestError",
    "RequestTooLarge",
    "RouteNotFound",
    "RuntimeFault",
    "SuiteError",
    "TargetLost",
    "TrainingDiverged",
    "UnsupportedParameter",
    "WorkflowNotFound",
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


class NothingAllowed(RequestError):
    """Constraint, bias and `min_tokens` of a request together left no token that may come next."""

    code = "nothing_allowed"


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
    """A money budget, of the request itself or of its tenant or team, does not pay for it."""

    status = 403
    code = "budget_exhausted"
    type = "permission_error"


class NotAnOperator(RequestError):
    """The key belongs to a tenant; only an operator of the policy may do this."""

    status = 403
    code = "not_an_operator"
    type = "permission_error"


class ModelNotFound(RequestError):
    """No model of that name stands behind this endpoint."""

    status = 404
    code = "model_not_found"


class RouteNotFound(RequestError):
    """No such path."""

    status = 404
    code = "route_not_found"


class WorkflowNotFound(RequestError):
    """No request of the tenant has finished under that workflow id."""

    status = 404
    code = "workflow_not_found"


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


class RateLimited(CapacityError):
    """The requests or tokens per minute of a tenant or team are used up; `retry_after_s` says until when."""

    code = "rate_limit_exceeded"


class ConcurrencyLimited(CapacityError):
    """A tenant or team has as many requests open as it may."""

    code = "concurrency_limit_exceeded"


class AccountingUnavailable(CapacityError):
    """The accounting owner cannot be reached, so whether money is left is not known; nothing was run."""

    status = 503
    code = "accounting_unavailable"
    type = "server_error"


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


class PolicyConflict(ConfigurationError):
    """The policy in force is not the one the change was made from, or the version asked for is not kept."""

    status = 409
    code = "policy_conflict"


class DatabaseError(ConfigurationError):
    """The database of ledger and policies cannot be reached, opened, migrated or written; names what to do."""

    code = "database_error"


class ModelDirectoryError(ConfigurationError):
    """A model directory is missing, incomplete, or holds a kind of model that is not supported."""

    code = "model_directory_error"


class DrafterMismatch(ConfigurationError):
    """A drafter was not made for this target: vocabulary, hidden size or tapped layers disagree."""

    code = "drafter_mismatch"


class CurveError(ConfigurationError):
    """A step-cost curve is flat, empty or decreasing: a planner would verify everything with it."""

    code = "curve_error"


class SuiteError(ConfigurationError):
    """An eval suite or one of its items does not load. The message names file, line, field and the fix."""

    code = "suite_error"


class EvalMismatch(ConfigurationError):
    """Outcomes or results of another suite, model or setting than asked for; mixing them would compare nothing."""

    code = "eval_mismatch"


class QualityFileError(ConfigurationError):
    """A file of quality estimates is missing, damaged or of another version. The message names field and fix."""

    code = "quality_file_error"


class PortInUse(ConfigurationError):
    """The HTTP port is taken by another process."""

    code = "port_in_use"


class RecipeError(ConfigurationError):
    """A drafter recipe does not load or does not fit its target. The message names file, line, column and field."""

    code = "recipe_error"


class DataError(ConfigurationError):
    """Prompts or answers are unreadable, empty, too few or longer than the context; names file and line."""

    code = "data_error"


class ArtifactMissing(ConfigurationError):
    """A stage was asked to start before the one it reads from has finished; names the command to run first."""

    code = "artifact_missing"


class ArtifactMismatch(ConfigurationError):
    """An artifact was made from other inputs or settings; names what differs and how to start over."""

    code = "artifact_mismatch"


class ArtifactBroken(ConfigurationError):
    """A file of an artifact is missing, truncated or was changed; names it and the command that rebuilds it."""

    code = "artifact_broken"


class NotEnoughDisk(ConfigurationError):
    """The disk cannot hold what is to be written; says how much is needed and how much is free."""

    code = "not_enough_disk"


class OutputNotWritable(ConfigurationError):
    """Files cannot be written where they are to go; names the path and the reason."""

    code = "output_not_writable"


class MissingExtra(ConfigurationError):
    """An optional dependency is not installed; names the extra that brings it."""

    code = "missing_extra"


class RuntimeFault(OutriderError):
    """A part of the platform failed while serving."""

    code = "runtime_fault"


class LinkError(RuntimeFault):
    """The draft link broke, timed out or carried a malformed message; the target goes on at depth 0."""

    code = "link_error"


class EndpointError(RuntimeFault):
    """An endpoint under evaluation refuses every request or cannot be reached; what was measured before is kept."""

    status = 502
    code = "endpoint_error"


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


class TrainingDiverged(RuntimeFault):
    """A loss or gradient is no longer a finite number; training stopped and the last checkpoint is kept."""

    code = "training_diverged"
