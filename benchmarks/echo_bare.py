"""The peer: the same endpoint in FastAPI on uvicorn, with nothing around it."""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class Message(BaseModel):
    text: str
    count: int


app = FastAPI()


@app.post("/api/echo/echo")
async def echo(body: Message) -> Message:
    return body


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="critical", access_log=False)
