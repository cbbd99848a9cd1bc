"""Requests that a machine made up from the OpenAPI document: whatever comes, no answer is a 500."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from clinic import visit, workstation

from skinedge.clinic.engine import EngineSettings

schemathesis = pytest.importorskip("schemathesis")


@pytest.mark.slow
def test_no_request_that_the_document_allows_or_forbids_ends_in_a_500(bundles: dict[str, Path]) -> None:
    from hypothesis import HealthCheck, given, settings

    with workstation(bundles["f32"], EngineSettings(bundles["f32"], threads=1, context=1024, answer_s=5)) as (client, _):
        mine = visit(client)
        headers = {**mine, "Cookie": f"skinedge_session={client.cookies['skinedge_session']}"}
        schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
        tried: list[str] = []

        def try_all(operation: object) -> None:
            """Requests of one operation."""
            path: str = operation.path  # type: ignore[attr-defined]

            @settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
            @given(case=operation.as_strategy())  # type: ignore[attr-defined]
            def ask(case: object) -> None:
                tried.append(path)
                body = getattr(case, "body", None)
                if isinstance(body, dict) and path in ("/v1/chat/completions", "/api/ask"):
                    body["max_tokens" if path.startswith("/v1") else "max_new_tokens"] = 2  # many answers, short ones
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    response = case.call(base_url=str(client.base_url).rstrip("/"), headers=headers)  # type: ignore[attr-defined]
                # 504: the five seconds that an answer may take here were not enough.
                assert response.status_code < 500 or response.status_code == 504, response.text

            ask()

        for result in schema.get_all_operations():
            try_all(result.ok())
        assert len(tried) > 100
        assert {"/v1/chat/completions", "/api/ask", "/api/pictures", "/v1/predict/{state_id}"} <= set(tried)
        assert client.get("/health").status_code == 200
