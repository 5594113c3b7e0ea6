"""Makes pictures for Triton's python backend, from the bundle beside this file; `hsexport triton` copied it here.

Needs hsruntime in the Python that the backend's stub runs, and Triton 24.12 or later: with an older one, numpy 1.26.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from hsengines.errors import HSError
from hsruntime.batching import batches, merged, parted
from hsruntime.bundle.manifest import Manifest
from hsruntime.options import OF_EACH, PICTURE_FILES, PictureOptions
from hsruntime.request import Progress, Request, RequestError, Result
from hsruntime.session import Session
from hsruntime.telling import warnings_kept


class AllCancelled(Exception):
    """Nobody waits for the batch any more."""


@dataclass(frozen=True, eq=False)
class Order:
    """A request of Triton's, where its answer goes, and what it asks of the session."""

    asked: Any
    sender: Any
    request: Request


class TritonPythonModel:
    """One instance: a session of its own in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the bundle and warms up for one picture and for a full batch. What it raises, Triton logs."""
        if args["model_instance_kind"] == "GPU" and args["model_instance_device_id"] != "0":
            raise HSError(
                f"this instance is for GPU {args['model_instance_device_id']}, hsruntime takes the first one it sees",
                "start one server for each GPU, each with its own CUDA_VISIBLE_DEVICES",
            )
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
        version = Path(args["model_repository"], args["model_version"])
        device, threads = parameters.get("device", ""), int(parameters["threads"])
        folder = parameters.get("adapter_folder")
        self._session = Session.open(
            version / parameters["bundle"], device=device, threads=threads, adapter_folder=folder
        )
        self._tells_progress = pb_utils.using_decoupled_model_transaction_policy(config)
        manifest = self._session.manifest
        for rows in sorted({1, manifest.facts.sizes.max_batch}):
            self._session.warm_up(PictureOptions(prompt=[""] * rows).completed(manifest))

    def execute(self, asked: list[Any]) -> None:
        """Answers each request through its sender: pictures, or an error that harms no neighbour."""
        orders = [order for order in map(self._order, asked) if order is not None]
        for batch in batches(orders, lambda order: order.request, self._session.manifest.facts.sizes.max_batch):
            self._serve(batch)

    def finalize(self) -> None:
        """Frees engines and device."""
        self._session.close()

    def _order(self, asked: Any) -> Order | None:
        """The request as an order; None if it was answered with an error already."""
        sender = asked.get_response_sender()
        try:
            request = request_of(self._session.manifest, asked)
            self._session.check_adapters(request)
            return Order(asked, sender, request)
        except HSError as err:
            refuse(sender, str(err), "INVALID_ARG")
            return None

    def _serve(self, batch: list[Order]) -> None:
        """Runs orders of one kind together, without those that were cancelled meanwhile."""
        waiting = [order for order in batch if not order.asked.is_cancelled()]
        for order in batch:
            if order not in waiting:
                refuse(order.sender, "cancelled by its client before it began", "CANCELLED")
        if not waiting:
            return

        def after_step(now: Progress) -> None:
            if all(order.asked.is_cancelled() for order in waiting):
                raise AllCancelled(f"cancelled by its client after step {now.step} of {now.steps}")
            if self._tells_progress:
                for order in waiting:
                    order.sender.send(progress_response(now, order.request.pictures))

        requests = [order.request for order in waiting]
        try:
            result = self._session.run(merged(requests, after_step))
        except AllCancelled as err:
            pb_utils.Logger.log_info(str(err))
            for order in waiting:
                refuse(order.sender, str(err), "CANCELLED")
        except HSError as err:
            for order in waiting:
                refuse(order.sender, str(err), "INTERNAL")
        else:
            for order, part in zip(waiting, parted(result, requests), strict=True):
                order.sender.send(response_of(part), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def request_of(manifest: Manifest, asked: Any) -> Request:
    """Reads Triton's inputs, one row a picture. Raises RequestError, ShapeError or ScheduleError."""
    read = {
        name: rows_of(asked, name.upper(), is_file=name in PICTURE_FILES) for name in PictureOptions.__struct_fields__
    }
    sent: dict[str, Any] = {
        name: rows if name in OF_EACH else shared(name.upper(), rows) for name, rows in read.items() if rows
    }
    with warnings_kept() as told:
        request = PictureOptions(**{"prompt": [], **sent}).completed(manifest)
    for warning in told:
        pb_utils.Logger.log_warn(warning)
    return request


def rows_of(asked: Any, name: str, *, is_file: bool) -> list[Any] | None:
    """An input's values, (B, 1) in Triton; None if it was not sent. Raises RequestError for texts not in UTF-8."""
    tensor = pb_utils.get_input_tensor_by_name(asked, name)
    if tensor is None:
        return None
    values = tensor.as_numpy()[:, 0].tolist()
    if is_file:
        return values
    try:
        return [value.decode() if isinstance(value, bytes) else value for value in values]
    except UnicodeDecodeError as err:
        raise RequestError(f"{name} is not text: {err}", "give it as UTF-8") from err


def shared(name: str, values: list[Any]) -> Any:
    """The value that all rows share. Raises RequestError if they differ."""
    if any(value != values[0] for value in values[1:]):
        told = "" if isinstance(values[0], bytes) else f": {values}"
        raise RequestError(f"{name} differs within one request{told}", "send one request for each value")
    return values[0]


def response_of(result: Result) -> Any:
    """Pictures and how they came about; REGION only if the schedule chose one."""
    rows = len(result.images)
    tensors = [
        pb_utils.Tensor("IMAGE", result.images),
        pb_utils.Tensor("SCHEDULE_USED", np.full((rows, 1), str(result.schedule).encode(), object)),
        pb_utils.Tensor("SECONDS", np.full((rows, 1), result.seconds, np.float32)),
    ]
    if result.region is not None:
        tensors.append(pb_utils.Tensor("REGION", result.region.reshape(rows, *result.grid)))
    return pb_utils.InferenceResponse(tensors)


def progress_response(now: Progress, rows: int) -> Any:
    """Steps done and steps in all."""
    return pb_utils.InferenceResponse([pb_utils.Tensor("PROGRESS", np.array([[now.step, now.steps]] * rows, np.int32))])


def refuse(sender: Any, line: str, code: str) -> None:
    """Ends a request with an error; `code` names one of Triton's."""
    sender.send(
        pb_utils.InferenceResponse([], pb_utils.TritonError(line, getattr(pb_utils.TritonError, code))),
        flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
    )
