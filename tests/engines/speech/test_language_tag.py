import pytest

from corsac.engines.speech.language_tag import language_tag


@pytest.mark.parametrize(
    ("code", "tag"),
    [
        ("de", "de"),
        ("en-us", "en-US"),
        ("pt_BR", "pt-BR"),
        ("es-419", "es-419"),
        ("fa-latn", "fa-Latn"),
        ("en-gb-scotland", "en-GB-scotland"),
        ("en-gb-x-rp", "en-GB-x-rp"),
        ("vi-vn-x-central", "vi-VN-x-central"),
        ("chr-US-Qaaa-x-west", "chr-US-Qaaa-x-west"),
        ("en-us-nyc", "en-US-x-nyc"),
        ("cmn-latn-pinyin", "zh-Latn-pinyin"),
        ("piqd", "tlh-Piqd"),
    ],
)
def test_a_language_code_becomes_a_tag(code: str, tag: str) -> None:
    assert language_tag(code) == tag
