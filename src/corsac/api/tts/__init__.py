"""Speech from text, with measured quality."""

from corsac.api.tts.config import TTSConfigModel
from corsac.api.tts.endpoints import TTSServiceRouter
from corsac.api.tts.service import TTSServiceManager
from corsac.core.service import ServiceSpec

SERVICE = ServiceSpec("tts", TTSServiceManager, TTSServiceRouter, TTSConfigModel, requires=("speech",))
