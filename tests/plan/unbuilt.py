"""What of the plan is not built yet: the missing part, and the requirements that wait for it.

The day the part is there its rows fail, and whoever built it writes their checks.
"""

from __future__ import annotations

SEVEN = "a b c d e +1 +2"
WHOLE_SERVICES = {
    "2.1": "corsac.api.ollama.endpoints",
    "2.2": "corsac.api.diffusion.endpoints",
    "2.4": "corsac.api.rag.endpoints",
    "3.2": "corsac.api.summarization.endpoints",
    "3.3": "corsac.api.comfy.endpoints",
    "4.1": "corsac.api.embedding_visualization.endpoints",
    "4.2": "corsac.api.image_utils.endpoints",
    "4.3": "corsac.api.caption.endpoints",
}
PARTS = {
    "2.3.d": "POST /api/tts/voices/clone",
    "5.1.c": "corsac.core.load.concurrency",
    "5.1.d": "~security.*(event|audit)",
    "5.1.e": "GET /api/security/config",
    "5.1.+1": "~threat",
    "5.1.+2": "~security.*analytics",
    "5.1.+3": "~cli/security|self_test",
    "5.2.+2": "corsac.core.load.load_balancer",
    "5.3.+1": "~predict|forecast|burn",
    "5.3.+2": "~automation",
    "5.4.a": "docs/refactoring_guide.md",
    "5.4.e": "docs/refactoring_guide.md",
    "5.4.+1": "~refactoring|duplicat",
    "5.4.+2": "~refactoring|duplicat",
}


def unbuilt() -> dict[str, str]:
    """Requirement → the part that it waits for."""
    waiting = dict(PARTS)
    for task, module in WHOLE_SERVICES.items():
        letters = [*SEVEN.split(), *(["+3"] if task == "3.3" else [])]
        waiting |= {f"{task}.{letter}": module for letter in letters}
    return waiting
