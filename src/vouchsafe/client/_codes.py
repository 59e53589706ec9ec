"""The calls about codes, as part of the client."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator

import grpc

from vouchsafe.client._calls import Calls
from vouchsafe.client._errors import from_rpc_error
from vouchsafe.v1 import code_service_pb2 as pb
from vouchsafe.v1.code_pb2 import Code, CodeForm, CodeUse, Operation, OperationState
from vouchsafe.v1.code_service_pb2 import CodeFilter, ImportCodesResponse, ImportMode

# What a message of an import may bring.
PIECE_BYTES = 262_144
POLL_S = 0.25


class CodeCalls(Calls):
    """What `Client` offers for codes."""

    async def generate_codes(
        self,
        campaign_id: str,
        count: int,
        *,
        form: CodeForm | None = None,
        use_limit: int = 1,
        operation_id: str | None = None,
        reason: str = "",
    ) -> Operation:
        """Begins to generate codes; `follow_operation` tells how far it is. As safe to repeat as the operation id is
        kept, which is made here unless given. Raises NotFound, InvalidArgument when the codes could be guessed, and
        RequestIdReused."""
        request = pb.GenerateCodesRequest(
            operation_id=operation_id or str(uuid.uuid4()),
            campaign_id=campaign_id,
            count=count,
            form=form,
            use_limit=use_limit,
            reason=reason,
        )
        return (await self._call(lambda: next(self._codes).GenerateCodes, request)).operation

    async def get_operation(self, operation_id: str) -> Operation:
        """How far an operation is. Raises NotFound."""
        request = pb.GetOperationRequest(operation_id=operation_id)
        return (await self._call(lambda: next(self._codes).GetOperation, request)).operation

    async def follow_operation(self, operation_id: str) -> AsyncGenerator[Operation, None]:
        """How far an operation is, four times a second until it has ended, its end included. Raises NotFound."""
        while True:
            operation = await self.get_operation(operation_id)
            yield operation
            if operation.state != OperationState.OPERATION_STATE_RUNNING:
                return
            await asyncio.sleep(POLL_S)

    async def list_operations(self, *, campaign_id: str = "", page_size: int = 100) -> AsyncIterator[Operation]:
        """All operations, or those of a campaign, newest first, fetched page by page."""
        token = ""
        while True:
            request = pb.ListOperationsRequest(campaign_id=campaign_id, page_size=page_size, page_token=token)
            response = await self._call(lambda: next(self._codes).ListOperations, request)
            for operation in response.operations:
                yield operation
            token = response.next_page_token
            if not token:
                return

    async def import_codes(
        self, campaign_id: str, data: AsyncIterable[bytes], *, all_or_nothing: bool = False, reason: str = ""
    ) -> ImportCodesResponse:
        """Enters codes from a CSV file in pieces, whose first line names the columns: `code`, and `use_limit` and
        `customer_id` if they are there. Bad lines are told; the others are imported, or with `all_or_nothing` none.
        Takes as long as the file does, and is not repeated. Raises NotFound and InvalidArgument."""
        mode = ImportMode.IMPORT_MODE_ALL_OR_NOTHING if all_or_nothing else ImportMode.IMPORT_MODE_SKIP_BAD_LINES

        async def requests() -> AsyncIterator[pb.ImportCodesRequest]:
            yield pb.ImportCodesRequest(config=pb.ImportConfig(campaign_id=campaign_id, mode=mode, reason=reason))
            async for piece in data:
                for at in range(0, len(piece), PIECE_BYTES):
                    yield pb.ImportCodesRequest(csv=piece[at : at + PIECE_BYTES])

        try:
            return await next(self._codes).ImportCodes(requests(), metadata=self._metadata())
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def export_codes(self, wanted: CodeFilter | None = None, reason: str = "") -> AsyncGenerator[bytes, None]:
        """All codes that fit, as a CSV file in pieces of whole lines. Takes as long as it does, and is not repeated."""
        request = pb.ExportCodesRequest(filter=wanted, reason=reason)
        call = next(self._codes).ExportCodes(request, metadata=self._metadata())
        try:
            response = await call.read()
            while isinstance(response, pb.ExportCodesResponse):  # until the end of the stream
                yield response.csv
                response = await call.read()
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        finally:
            call.cancel()

    async def get_code(self, code: str) -> Code:
        """A code as of now. Raises NotFound."""
        return (await self._call(lambda: next(self._codes).GetCode, pb.GetCodeRequest(code=code))).code

    async def list_codes(
        self, wanted: CodeFilter | None = None, *, is_used: bool | None = None, page_size: int = 100
    ) -> AsyncIterator[Code]:
        """All codes that fit, in their order, fetched page by page; with `is_used` only those that are, or are not."""
        use = CodeUse.CODE_USE_UNSPECIFIED
        if is_used is not None:
            use = CodeUse.CODE_USE_USED if is_used else CodeUse.CODE_USE_UNUSED
        token = ""
        while True:
            request = pb.ListCodesRequest(filter=wanted, use=use, page_size=page_size, page_token=token)
            response = await self._call(lambda: next(self._codes).ListCodes, request)
            for code in response.codes:
                yield code
            token = response.next_page_token
            if not token:
                return

    async def assign_code(
        self, code: str, customer_id: str, *, valid_for_s: float | None = None, reason: str = ""
    ) -> Code:
        """Gives a code to a customer, valid for so long from now on or as the campaign says. Raises NotFound,
        AlreadyExists when another customer has it, InvalidArgument when it is for many."""
        request = pb.AssignCodeRequest(code=code, customer_id=customer_id, reason=reason)
        if valid_for_s is not None:
            request.valid_for.FromMilliseconds(round(valid_for_s * 1000))
        return (await self._call(lambda: next(self._codes).AssignCode, request)).code

    async def disable_code(self, code: str, reason: str = "") -> Code:
        """Stops a code: once this returns, no later redemption of it succeeds. Raises NotFound."""
        request = pb.DisableCodeRequest(code=code, reason=reason)
        return (await self._call(lambda: next(self._codes).DisableCode, request)).code

    async def enable_code(self, code: str, reason: str = "") -> Code:
        """Lets a code be used again. Raises NotFound."""
        request = pb.EnableCodeRequest(code=code, reason=reason)
        return (await self._call(lambda: next(self._codes).EnableCode, request)).code

    async def gift_code(
        self,
        campaign_id: str,
        customer_id: str,
        *,
        valid_for_s: float | None = None,
        form: CodeForm | None = None,
        request_id: str | None = None,
        reason: str = "",
    ) -> Code:
        """Makes a code that can be used once, and gives it to a customer. The request id is made here unless given, and
        kept over repetitions: one gift, one code. Raises NotFound and RequestIdReused."""
        request = pb.GiftCodeRequest(
            request_id=request_id or str(uuid.uuid4()),
            campaign_id=campaign_id,
            customer_id=customer_id,
            form=form,
            reason=reason,
        )
        if valid_for_s is not None:
            request.valid_for.FromMilliseconds(round(valid_for_s * 1000))
        return (await self._call(lambda: next(self._codes).GiftCode, request)).code
