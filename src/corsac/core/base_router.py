"""Operations as marked methods: the marks, the router that mounts them, and the base of every service's router.

    class GreetingRouter(BaseServiceRouter[GreetingManager]):
        service_name = "greeting"

        @post("/greet", per_minute=60)
        async def greet(self, request: GreetRequest, call: Call) -> Greeting:
            '''Greet somebody by name.'''
            return await self.manager.greet(request, call)

A mark leaves a frozen `Route` on the method; `routes()` walks the class once. What is decided before the body is read
(scope, availability, limits, deadline, size) wraps the route's ASGI app; metrics and error translation wrap the
method. A parameter of type `Call` is filled with the present call and is no part of the HTTP interface.
"""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, ClassVar, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send

from corsac.core.call import CURRENT_CALL, Call
from corsac.core.error_handler import ServiceErrorHandler
from corsac.core.exceptions import CorsacError, MethodNotAllowed
from corsac.core.health_checks import HealthReport
from corsac.core.http.body import StrictRequest
from corsac.core.http.gate import GatePolicy, RouteGate, SocketGate
from corsac.core.http.idempotent_route import IdempotentRoute
from corsac.core.http.openapi import documented_errors, documented_rules
from corsac.core.http.problem import from_framework
from corsac.core.idempotency import IdempotencyStore
from corsac.core.identity import ADMIN, ANY
from corsac.core.load.rate_limiter import Limit, RateLimiter
from corsac.core.load.rate_limiter import per_minute as limit_per_minute
from corsac.core.service import Part, ServiceContext
from corsac.core.streams.encoding import STREAMED
from corsac.core.streams.hub import StreamHub
from corsac.core.streams.websocket import Socket, SocketEndpoint
from corsac.core.validation import translate_validation_errors

Handler = TypeVar("Handler", bound=Callable[..., Any])
Manager = TypeVar("Manager", bound=Part)
T = TypeVar("T")
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE", "WEBSOCKET"]
STREAM_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Route:
    """What a mark says about an operation.

    Args:
        method: The HTTP method.
        path: Below the router's prefix; `{name}` is a path parameter.
        scope: Scope that the caller needs; empty: the router's own.
        limit: Requests per minute and caller; None: no limit of its own.
        timeout_s: Deadline in seconds where the client sets none.
        max_body_bytes: Size of the largest body.
        body: Class attribute with the type of the parameter `body` where it differs per class, as `config_model`.
        status: Status of the success.
        raises: Error classes that this operation answers with besides the general ones.
        while_down: Whether it answers while the service does not run.
        upload: Whether the handler reads a multipart body itself.
        produces: Media types of the success, the preferred one first; the call's `media_type` is the one chosen.
        in_schema: Whether `/openapi.json` lists it; pages for browsers are not listed.
        events: For an operation that answers with a stream: the types of its events and their data, for the document.
            Its answers are server-sent events or lines of JSON, and its deadline is 600 s unless it says otherwise.
        idempotent_key: Whether a repetition with the same `Idempotency-Key` is answered as before; for work that is
            dear or must not be done twice. The operation needs a caller.
    """

    method: Method
    path: str
    scope: str = ""
    limit: Limit | None = None
    timeout_s: float = 60.0
    max_body_bytes: int = 1 << 20
    body: str = ""
    status: int = 200
    raises: tuple[type[CorsacError], ...] = ()
    while_down: bool = False
    upload: bool = False
    produces: tuple[str, ...] = ("application/json",)
    in_schema: bool = True
    events: Mapping[str, Any] | None = None
    idempotent_key: bool = False


def _mark(method: Method, path: str, *, per_minute: float | None = None, **rules: Any) -> Callable[[Handler], Handler]:
    limit = None if per_minute is None else limit_per_minute(per_minute)
    if rules.get("events") is not None:
        rules = {"produces": STREAMED, "timeout_s": STREAM_TIMEOUT_S, **rules}
    route = Route(method, path, limit=limit, **rules)

    def leave(handler: Handler) -> Handler:
        handler.__route__ = route  # type: ignore[attr-defined]
        return handler

    return leave


get = functools.partial(_mark, "GET")
post = functools.partial(_mark, "POST")
put = functools.partial(_mark, "PUT")
patch = functools.partial(_mark, "PATCH")
delete = functools.partial(_mark, "DELETE")
websocket = functools.partial(_mark, "WEBSOCKET")
"""A handler of a connection: `async def talk(self, socket: Socket, call: Call) -> None`, and the path's parameters as
text. What the gate refuses is answered before the handshake."""


def answer_types(annotation: Any) -> tuple[Any, type[Response] | None]:
    """The model and the response class in a return annotation such as `Reply`, `FileResponse` or their union.

    FastAPI takes only one of the two as an annotation.
    """
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    responses = [each for each in members if inspect.isclass(each) and issubclass(each, Response)]
    models = [each for each in members if each not in responses and each not in (None, type(None))]
    model = functools.reduce(lambda left, right: left | right, models) if models else None
    return model, responses[0] if responses else None


class StrictRoute(APIRoute):
    """A route whose body is read by the strict parse, and whose validation errors are ours."""

    allowed: Sequence[str] = ()
    """Methods that its path takes, on this route and its siblings."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, or refuses the method and names those of all routes on this path."""
        if scope["method"] not in (self.methods or ()):
            allow = ", ".join(self.allowed)
            raise MethodNotAllowed(f"This path takes {allow}.", headers={"Allow": allow})
        await super().handle(scope, receive, send)

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """FastAPI's handler, given a request whose `json()` is ours."""
        handler = super().get_route_handler()
        body_type = self.body_field.field_info.annotation if self.body_field else None

        async def strictly(request: Request) -> Response:
            try:
                return await handler(StrictRequest(request.scope, request.receive))
            except RequestValidationError as error:
                raise translate_validation_errors(error.errors(), body_type=body_type) from None

        return strictly


class BaseRouter:
    """Mounts its marked methods.

    Args:
        errors: Translates and counts the errors of its operations.
        limiter: The one rate limiter.
        idempotency: Keeps the answers of operations marked `idempotent_key`; None: the header is ignored.
    """

    prefix: ClassVar[str] = ""
    tag: ClassVar[str] = ""
    scope: ClassVar[str] = ADMIN
    service_name: ClassVar[str] = ""
    streams: StreamHub
    """Where a router has streaming operations or WebSockets."""

    def __init__(
        self, errors: ServiceErrorHandler, limiter: RateLimiter, idempotency: IdempotencyStore | None = None
    ) -> None:
        self.errors = errors
        self.limiter = limiter
        self.idempotency = idempotency

    def routes(self) -> list[StrictRoute]:
        """A mounted route for each marked method, in the order of declaration, base classes last."""
        mounted = [self._mounted(name, route) for name, route in self.declared() if route.method != "WEBSOCKET"]
        for each in mounted:
            siblings = [other for other in mounted if other.path == each.path]
            each.allowed = sorted(method for other in siblings for method in other.methods or ())
        return mounted

    def websocket_routes(self) -> list[WebSocketRoute]:
        """A mounted route for each `websocket` mark."""
        return [self._mounted_socket(name, route) for name, route in self.declared() if route.method == "WEBSOCKET"]

    @classmethod
    def declared(cls) -> Iterator[tuple[str, Route]]:
        """Names and marks of the operations; a subclass's method hides its base's."""
        seen = set()
        for owner in cls.__mro__:
            for name in vars(owner):
                route = getattr(getattr(cls, name, None), "__route__", None)
                if route is not None and name not in seen:
                    seen.add(name)
                    yield name, route

    def unavailable(self) -> CorsacError | None:
        """The error to answer with while this cannot work, else None."""
        return None

    def _mounted(self, name: str, route: Route) -> StrictRoute:
        endpoint = self._endpoint(name, route)
        model, response_class = answer_types(inspect.signature(endpoint).return_annotation)
        options: dict[str, Any] = (
            {} if model is not None or response_class is None else {"response_class": response_class}
        )
        scope = route.scope or self.scope
        mounted = StrictRoute(
            self.prefix + route.path,
            endpoint,
            methods=[route.method],
            status_code=route.status,
            response_model=model,
            **options,
            name=name,
            operation_id=f"{self.tag}_{name}",
            tags=[self.tag],
            summary=(endpoint.__doc__ or name).strip().partition("\n")[0].rstrip("."),
            include_in_schema=route.in_schema,
        )
        query = frozenset(each.alias for each in mounted.dependant.query_params)
        has_body = mounted.body_field is not None
        mounted.responses = documented_errors(route, scope, has_body=has_body, has_query=bool(query))
        mounted.openapi_extra = documented_rules(route, scope)
        policy = GatePolicy(
            self.service_name,
            name,
            scope,
            limit=route.limit,
            timeout_s=route.timeout_s,
            max_body_bytes=route.max_body_bytes,
            body="multipart" if route.upload else "json" if has_body else "none",
            produces=route.produces,
            query=query,
            unavailable=(lambda: None) if route.while_down else self.unavailable,
        )
        if route.idempotent_key and self.idempotency is not None:
            mounted.app = IdempotentRoute(
                mounted.app,
                self.idempotency,
                mounted.operation_id or name,
                self.errors.logger,
                reads_body=policy.body != "none",
            )
        mounted.app = RouteGate(mounted.app, policy, self.limiter)
        return mounted

    def _mounted_socket(self, name: str, route: Route) -> WebSocketRoute:
        method = getattr(self, name)
        hints = get_type_hints(method.__func__)
        names = {kind: [each for each, hint in hints.items() if hint is kind] for kind in (Socket, Call)}

        async def handler(socket: Socket, **parameters: str) -> None:
            arguments: dict[str, Any] = {**parameters, **dict.fromkeys(names[Socket], socket)}
            arguments |= dict.fromkeys(names[Call], socket.call)
            await self._standard_async_operation(name, method, **arguments)

        policy = GatePolicy(
            self.service_name,
            name,
            route.scope or self.scope,
            limit=route.limit,
            unavailable=(lambda: None) if route.while_down else self.unavailable,
        )
        gate = SocketGate(SocketEndpoint(handler, self.streams.sockets), policy, self.limiter)
        return WebSocketRoute(self.prefix + route.path, gate, name=name)

    def _endpoint(self, name: str, route: Route) -> Callable[..., Awaitable[Any]]:
        """The method as FastAPI sees it: without `self` and `Call`, and with this class's own body type."""
        method = getattr(self, name)
        hints = get_type_hints(method.__func__, include_extras=True)
        signature = inspect.signature(method)
        calls = [each for each in signature.parameters if hints.get(each) is Call]
        parameters = [
            each.replace(
                annotation=getattr(self, route.body) if each.name == "body" and route.body else hints[each.name]
            )
            for each in signature.parameters.values()
            if each.name not in calls
        ]

        async def endpoint(**arguments: Any) -> Any:
            for each in calls:
                arguments[each] = CURRENT_CALL.get()
            return await self._standard_async_operation(name, method, **arguments)

        endpoint.__name__ = name
        endpoint.__doc__ = method.__doc__
        endpoint.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=parameters, return_annotation=hints.get("return")
        )
        return endpoint

    async def _standard_async_operation(
        self, operation: str, function: Callable[..., Awaitable[T]], /, **arguments: Any
    ) -> T:
        """Await `function`; whatever it raises comes out as an error of ours, counted once.

        Raises:
            CorsacError: Its own, or the translation of anything else.
        """
        try:
            return await function(**arguments)
        except Exception as error:
            ours = self.errors.handle_service_error(operation, from_framework(error) or error)
            if ours is error:
                raise
            raise ours from error

    def _standard_operation(self, operation: str, function: Callable[..., T], /, **arguments: Any) -> T:
        """The same for a plain function, which must not block."""
        try:
            return function(**arguments)
        except Exception as error:
            ours = self.errors.handle_service_error(operation, error)
            if ours is error:
                raise
            raise ours from error


class BaseServiceRouter(BaseRouter, ABC, Generic[Manager]):
    """The HTTP face of one service: `/api/<service_name>`.

    Args:
        manager: Does the work.
        context: What the composition root hands the service.

    Raises:
        TypeError: The class is abstract: it names no service.
    """

    scope: ClassVar[str] = ""

    @property
    @abstractmethod
    def service_name(self) -> str:  # type: ignore[override]
        """The service's name; a subclass sets it as a class attribute."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if isinstance(cls.service_name, str):
            cls.prefix = f"/api/{cls.service_name}"
            cls.tag = cls.tag or cls.service_name
            cls.scope = cls.scope or cls.service_name

    def __init__(self, manager: Manager, context: ServiceContext) -> None:
        super().__init__(context.errors, context.limiter, context.idempotency)
        self.manager = manager
        self.context = context
        self.streams = context.streams

    def unavailable(self) -> CorsacError | None:
        """The error to answer with while the service does not run."""
        why = self.context.registry.why_unavailable(self.service_name)
        if why is None:
            return None
        return self.errors.handle_service_unavailable(self.service_name, why.detail, why.hint)

    @get("/health", scope=ANY, while_down=True)
    async def health(self) -> HealthReport:
        """How the service is, also while it is down."""
        return await self.context.health.report(self.service_name)
