"""What the inference side raises: who is at fault, and whether trying again helps."""

from __future__ import annotations

from modelsync_protocol.errors import ModelsyncError, RefusedError, UnreachableError, UsageError


class InputError(UsageError):
    """The caller's tensors or request don't fit the model; trying again without a change won't help."""


class UnknownError(InputError):
    """A model, version or label that is not here."""


class NotServingError(UnreachableError):
    """No version of the model serves yet; trying again after a while may help."""


class RunError(ModelsyncError):
    """The model was given fitting tensors and broke while it ran."""


class WorkerDiedError(RunError):
    """The model's process ended, or was ended because it did not answer."""


class ModelRefusedError(RefusedError):
    """A version may not serve: damaged, of a kind that isn't executed, or its probe failed."""
