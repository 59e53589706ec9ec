"""CodeService, for operators and support."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from grpc.aio import ServicerContext

from vouchsafe.domain.campaign import normalise_code
from vouchsafe.domain.errors import InvalidRequest, Violation
from vouchsafe.edge import convert_codes as convert
from vouchsafe.edge.convert_pages import decode_text, decode_time_and_id, encode_token
from vouchsafe.service.codes import Codes
from vouchsafe.v1 import code_service_pb2 as pb
from vouchsafe.v1.code_service_pb2_grpc import CodeServiceServicer

Context = ServicerContext[Any, Any]

DEFAULT_PAGE_SIZE = 50


class CodeServicer(CodeServiceServicer):
    """Messages arrive validated, and errors leave through the guard (`edge.guard`)."""

    # Set before the first call is let through.
    use_case: Codes

    async def GenerateCodes(self, request: pb.GenerateCodesRequest, context: Context) -> pb.GenerateCodesResponse:
        """Begins to generate codes."""
        operation = await self.use_case.generate(
            request.operation_id,
            request.campaign_id,
            convert.form(request.form),
            request.use_limit or 1,
            request.count,
            request.reason,
        )
        return pb.GenerateCodesResponse(operation=convert.operation_message(operation))

    async def GetOperation(self, request: pb.GetOperationRequest, context: Context) -> pb.GetOperationResponse:
        """How far an operation is."""
        operation = await self.use_case.operation(request.operation_id)
        return pb.GetOperationResponse(operation=convert.operation_message(operation))

    async def ListOperations(self, request: pb.ListOperationsRequest, context: Context) -> pb.ListOperationsResponse:
        """A page of operations."""
        token = request.page_token
        after = decode_time_and_id(token, r"[A-Za-z0-9_.-]{1,64}") if token else None
        operations, following = await self.use_case.operations(
            request.campaign_id or None, request.page_size or DEFAULT_PAGE_SIZE, after
        )
        return pb.ListOperationsResponse(
            operations=map(convert.operation_message, operations), next_page_token=encode_token(following)
        )

    async def ImportCodes(
        self, request_iterator: AsyncIterator[pb.ImportCodesRequest], context: Context
    ) -> pb.ImportCodesResponse:
        """Enters codes from a file that comes in pieces."""
        first = await anext(request_iterator, None)
        if first is None or not first.HasField("config"):
            raise InvalidRequest(Violation("config", "has to come in the first message"))
        whole = first.config.mode == pb.IMPORT_MODE_ALL_OR_NOTHING
        report = await self.use_case.importer.run(
            first.config.campaign_id, _csv(request_iterator), whole=whole, reason=first.config.reason
        )
        return pb.ImportCodesResponse(
            imported_count=report.imported,
            bad_line_count=report.bad_count,
            bad_lines=(pb.BadLine(line=line.number, reason=line.problem) for line in report.bad),
        )

    async def ExportCodes(
        self, request: pb.ExportCodesRequest, context: Context
    ) -> AsyncGenerator[pb.ExportCodesResponse, None]:
        """All codes that fit, as a file in pieces."""
        yield pb.ExportCodesResponse(csv=convert.csv_header().encode())
        async with aclosing(self.use_case.export(convert.code_filter(request.filter), request.reason)) as pieces:
            async for codes in pieces:
                yield pb.ExportCodesResponse(csv=convert.csv_lines(codes).encode())

    async def GetCode(self, request: pb.GetCodeRequest, context: Context) -> pb.GetCodeResponse:
        """One code."""
        status = await self.use_case.get(normalise_code(request.code))
        return pb.GetCodeResponse(code=convert.code_message(status))

    async def ListCodes(self, request: pb.ListCodesRequest, context: Context) -> pb.ListCodesResponse:
        """A page of codes."""
        after = decode_text(request.page_token, r"[A-Z0-9_-]{1,64}") if request.page_token else ""
        codes, following = await self.use_case.list_codes(
            convert.code_filter(request.filter),
            request.page_size or DEFAULT_PAGE_SIZE,
            after,
            is_used=convert.IS_USED[request.use],
        )
        return pb.ListCodesResponse(codes=map(convert.code_message, codes), next_page_token=encode_token(following))

    async def AssignCode(self, request: pb.AssignCodeRequest, context: Context) -> pb.AssignCodeResponse:
        """Gives a code to a customer."""
        status = await self.use_case.assign(
            normalise_code(request.code), request.customer_id, convert.valid_for_ms(request), request.reason
        )
        return pb.AssignCodeResponse(code=convert.code_message(status))

    async def DisableCode(self, request: pb.DisableCodeRequest, context: Context) -> pb.DisableCodeResponse:
        """Stops a code at once, on every server."""
        status = await self.use_case.disable(normalise_code(request.code), request.reason)
        return pb.DisableCodeResponse(code=convert.code_message(status))

    async def EnableCode(self, request: pb.EnableCodeRequest, context: Context) -> pb.EnableCodeResponse:
        """Lets a code be used again."""
        status = await self.use_case.enable(normalise_code(request.code), request.reason)
        return pb.EnableCodeResponse(code=convert.code_message(status))

    async def GiftCode(self, request: pb.GiftCodeRequest, context: Context) -> pb.GiftCodeResponse:
        """Makes a code and gives it to a customer."""
        status = await self.use_case.gift(
            request.request_id,
            request.campaign_id,
            request.customer_id,
            convert.form(request.form),
            convert.valid_for_ms(request),
            request.reason,
        )
        return pb.GiftCodeResponse(code=convert.code_message(status))


async def _csv(requests: AsyncIterator[pb.ImportCodesRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.HasField("config"):
            raise InvalidRequest(Violation("config", "has to come in the first message, and only there"))
        yield request.csv
