"""The commands against the real API: what they print, and the codes that they end with."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from sqlalchemy.orm import Session
from typer.core import TyperGroup

from app.core.errors import ALL_PROBLEMS
from app.jobs import fencing, jobs, stage_results
from client import config
from client.cli import app
from client.commands.submit import tasks_of
from client.core.events import REMEDIES
from client.errors import EXITS, NOT_ACCEPTED, ClientError
from client.recipes import override
from client.terminal import job_view
from client.terminal.output import IN_COMMANDS
from compression.schema.errors import ALL_ERRORS, OutOfMemory
from tests.client.conftest import Command, Live, document
from tests.client.figures import DATA_FACTS, LLAMA_FACTS, further, recommending, report, validated
from tests.conftest import ROOT, free_port, wait_for
from tests.support.saying import says

FAILURE = {"code": "label_mismatch", "cause": "the head has 3 labels", "remedy": "Send two.", "param": "models.base"}


def succeed(session: Session, claim: fencing.Claim) -> None:
    found = report()
    for row in found.rows:
        stage_results.record_stage(session, claim, row, "p", [], [])
    jobs.finish(session, claim, found.model_dump(mode="json"), [])


def test_one_task_is_for_all_datasets_or_each_has_its_own() -> None:
    assert tasks_of([], 2) == ["text-classification"] * 2
    assert tasks_of(["text-regression"], 2) == ["text-regression"] * 2
    assert tasks_of(["text-classification", "text-regression"], 2) == ["text-classification", "text-regression"]
    with pytest.raises(typer.BadParameter, match="2 tasks for 3 datasets"):
        tasks_of(["text-classification", "text-regression"], 3)


def test_commands_in_remedies_can_be_typed_as_they_are() -> None:
    remedies = [*(kind.remedy for kind in (*ALL_PROBLEMS, *ALL_ERRORS)), *REMEDIES.values()]
    typed = [shlex.split(words) for remedy in remedies for words in re.findall(r"`lathe ([^`]+)`", remedy)]
    assert ["keys", "create", "NAME", "--scope", "write"] in typed
    for words in typed:
        asked = typer.main.get_command(app)
        while isinstance(asked, TyperGroup):
            asked = asked.commands[words.pop(0)]
        asked.make_context("lathe", ["write" if word == "SCOPE" else word for word in words])  # raises for what is missing


def test_wait_ends_with_0_and_the_table(live: Live, command: Command, job: str) -> None:
    live.end(job, succeed)
    ran = command("wait", job)
    assert ran.code == 0
    says(ran.out, "13.00 M (−35.0 %)", f"lathe download {job}")
    assert "distilled done" in ran.err
    found = document(command("wait", job, "--json"))
    assert (found["state"], len(found["rows"])) == ("succeeded", 4)


def test_wait_ends_with_1_and_the_remedy_of_a_failed_job(live: Live, command: Command, job: str) -> None:
    live.end(job, lambda session, claim: jobs.fail(session, claim, FAILURE))
    ran = command("wait", job)
    assert ran.code == 1
    says(ran.out, "the head has 3 labels (label_mismatch) (field models.base)", "next: Send two.")
    assert document(command("wait", job, "--json"))["error"] == FAILURE


def test_wait_ends_with_2_for_wrong_usage(command: Command) -> None:
    ran = command("wait")
    assert (ran.code, ran.out) == (2, "")
    assert "JOB" in ran.err


def test_wait_ends_with_3_for_a_cancelled_job(live: Live, command: Command, job: str) -> None:
    assert "is cancelled" in command("cancel", job).out
    assert command("wait", job).code == 3


def test_wait_ends_with_4_when_its_time_is_over(live: Live, command: Command, job: str) -> None:
    ran = command("wait", job, "--timeout", "0.1", "--json")
    assert ran.code == 4
    assert document(ran)["error"]["code"] == "timeout"
    assert document(command("show", job, "--json"))["state"] == "queued"


def test_wait_ends_with_5_when_nobody_answers(home: Any, command: Command) -> None:
    config.save(config.Config(f"http://127.0.0.1:{free_port()}", "lathe_a_b"))
    ran = command("wait", "job_1", "--json")
    assert ran.code == 5
    assert document(ran)["error"]["code"] == "unreachable"


def test_the_largest_request_is_told(command: Command) -> None:
    says(" ".join(command("serve", "--help").out.split()), "by default 1 MiB, of images 5.4 MiB")


def test_the_codes_are_documented(command: Command) -> None:
    text = " ".join(command("--help").out.split())
    for code, meaning in EXITS.items():
        assert f"{code} {meaning}" in text
    assert EXITS.keys() == {
        0,
        *(kind.exit_code for kind in every(ClientError)),
        *job_view.EXIT_CODES.values(),
        NOT_ACCEPTED,
        130,
    }


def every(kind: type[ClientError]) -> list[type[ClientError]]:
    return [kind, *(found for below in kind.__subclasses__() for found in every(below))]


def test_without_a_key_the_next_step_is_named(command: Command) -> None:
    ran = command("ls")
    assert (ran.code, ran.out) == (2, "")
    assert "lathe up" in ran.err


LISTS = ("recipe ls", "recipe show quick", "queue", "usage --days 7", "quotas", "families", "workers", "keys ls", "models ls")


@pytest.mark.parametrize("words", [*LISTS, "datasets ls", "ls --state queued --label a=b"])
def test_every_list_is_one_document_or_something_to_read(live: Live, command: Command, words: str) -> None:
    assert document(command(*words.split(), "--json")) is not None
    shown = command(*words.split())
    assert shown.code == 0
    assert shown.out.strip()
    assert "\x1b" not in shown.out


def test_a_job_can_be_found_by_its_label(live: Live, command: Command) -> None:
    model, dataset = live.ready()
    labels = ("--label", "team=blue", "--label", "url=http://x")
    ran = command("submit", "--model", model, "--data", dataset, *labels, "--json")
    job = document(ran)["id"]
    assert [item["id"] for item in document(command("ls", "--label", "url=http://x", "--json"))] == [job]
    assert [item["id"] for item in document(command("ls", "--label", "url:http://x", "--json"))] == [job]
    assert [item["id"] for item in document(command("ls", "--label", "team=blue", "--json"))] == [job]
    assert document(command("ls", "--label", "team=red", "--json")) == []
    assert command("cancel", job).code == 0
    again = document(command("retry", job, "--json"))
    assert again["retry_of"] == job
    command("cancel", again["id"])


def test_changes_reach_the_recipe_and_wrong_ones_are_named(live: Live, command: Command) -> None:
    model, dataset = live.ready()
    here = ("submit", "--model", model, "--data", dataset, "--recipe", "quick", "--json")
    job = document(command(*here, "--set", "prune.ratio=0.4", "--set", "distill=null", "--target", "retention=0.9"))
    assert (job["recipe"]["prune"]["ratio"], job["recipe"]["distill"]) == (0.4, None)
    assert job["targets"]["retention"] == 0.9
    command("cancel", job["id"])
    ran = command(*here, "--set", "prune.rato=0.4")
    assert ran.code == 6
    assert document(ran)["error"]["param"] == "recipe.prune.rato"


def test_a_preset_with_changes_is_had_for_a_task_as_the_preset_alone_is(live: Live, command: Command) -> None:
    texts = {"task": "causal-lm", "labels": [], "label_counts": {"train": {}}, "characters": {"train": 90_000, "test": 9_000}}
    model, dataset = live.ready(LLAMA_FACTS, {**DATA_FACTS, **texts})
    here = ("submit", "--model", model, "--data", dataset, "--recipe", "article", "--json")
    plain, changed = document(command(*here)), document(command(*here, "--set", "distill.epochs=2"))
    distill = plain["recipe"]["distill"]
    assert distill["augment"] is None
    assert (distill["teachers"]["seeds"], distill["general"]["epochs"]) == (3, 3)
    assert changed["recipe"] == {**plain["recipe"], "distill": {**plain["recipe"]["distill"], "epochs": 2}}
    for job in (plain, changed):
        command("cancel", job["id"])


def test_a_preset_that_is_not_there_is_named_before_anything_is_uploaded(live: Live, command: Command) -> None:
    for change, code in (("prune.ratio=0.4", "bad_recipe"), ("prune.rato=0.4", "invalid_recipe")):
        recipe = "slow" if code == "bad_recipe" else "quick"
        ran = command("submit", "--model", "./none", "--data", "dat_1", "--recipe", recipe, "--set", change, "--json")
        assert document(ran)["error"]["code"] == code
    ran = command("submit", "--model", "./none", "--data", "dat_1", "--recipe", "quikc", "--json")
    assert "quikc" in document(ran)["error"]["cause"]


def test_a_device_that_is_not_there_is_named_before_anything_is_uploaded(live: Live, command: Command) -> None:
    ran = command("submit", "--model", "./none", "--data", "dat_1", "--recipe", "quick", "--evaluate", "devices=nowhere,pi")
    assert ran.code == 2
    assert "no device 'nowhere'" in ran.err


def test_a_dry_run_submits_nothing(live: Live, command: Command) -> None:
    model, dataset = live.ready()
    before = len(document(command("ls", "--json")))
    ran = command("submit", "--model", model, "--data", dataset, "--dry-run")
    assert ran.code == 0
    says(ran.out, "Nothing was submitted", "heads 6")
    assert len(document(command("ls", "--json"))) == before


@pytest.mark.parametrize("follow", [(), ("-f",)], ids=["pages", "stream"])
def test_logs_are_json_lines_in_order(live: Live, command: Command, job: str, follow: tuple[str, ...]) -> None:
    live.end(job, lambda session, claim: jobs.fail(session, claim, FAILURE))
    ran = command("logs", job, *follow, "--json")
    events = [json.loads(line) for line in ran.out.splitlines()]
    assert [(event["seq"], event["type"]) for event in events] == [(1, "queued"), (2, "claimed"), (3, "failed")]
    rest = command("logs", job, *follow, "--json", "--after", "2").out.splitlines()
    assert [json.loads(line)["type"] for line in rest] == ["failed"]
    assert "failed code=label_mismatch cause=the head has 3 labels" in command("logs", job, *follow).out


def test_logs_name_the_stage_that_is_finished(live: Live, command: Command, job: str) -> None:
    live.end(job, succeed)
    lines = [line for line in command("logs", job).out.splitlines() if "stage_finished" in line]
    assert [line.split("stage=")[1] for line in lines] == ["baseline", "quantized", "pruned", "distilled"]


def test_remedies_speak_of_commands_and_documents_keep_the_services(live: Live, command: Command, job: str) -> None:
    ran = command("show", "job_none")
    assert ran.code == 6
    assert "`lathe ls`" in ran.err
    assert "lathe watch" in command("report", job).err
    assert document(command("report", job, "--json"))["error"]["remedy"].startswith("Wait for the state")
    assert set(IN_COMMANDS) <= {kind.code for kind in ALL_PROBLEMS}


def test_a_report_comes_in_four_forms_and_a_file_says_its_own(live: Live, command: Command, job: str, tmp_path: Path) -> None:
    early = command("report", job, "--json")
    assert early.code == 6
    assert document(early)["error"]["code"] == "report_not_ready"
    live.end(job, succeed)
    assert command("report", job, "--format", "md").out.startswith("| stage |")
    assert json.loads(command("report", job, "--format", "json").out) == report().model_dump(mode="json")
    assert document(command("report", job, "--json")) == report().model_dump(mode="json")
    assert "missed: retention" in command("report", job).out
    page = command("report", job, "--format", "html").out
    assert page.lower().startswith("<!doctype html>")
    assert "distilled" in page
    for name, begin in (("r.html", page[:40]), ("r.md", "| stage |"), ("r.json", "{")):
        ran = command("report", job, "-o", str(tmp_path / name))
        assert f"{name} is written" in ran.out
        assert (tmp_path / name).read_text().startswith(begin)
    assert document(command("report", job, "-o", str(tmp_path / "r.md"), "--json"))["file"] == str(tmp_path / "r.md")
    assert command("report", job, "-o", str(tmp_path / "r.txt")).code == 2


def test_a_retry_takes_its_remedy_along(live: Live, command: Command, job: str) -> None:
    live.end(job, lambda session, claim: jobs.fail(session, claim, OutOfMemory("no room").as_dict()))
    shown = command("show", job)
    assert "to try: recipe.train.batch 32 → 16" in shown.out
    assert f"lathe retry {job} --remedy" in shown.err
    before = document(command("ls", "--json"))
    both = command("retry", job, "--remedy", "--apply", "recipe.train.batch")
    assert both.code == 2
    says(both.err, "it applies all changes: leave it out, or --apply")
    assert document(command("ls", "--json")) == before  # no job was made
    says(command("retry", job, "--remedy").out, "recipe.train.batch: 32 → 16", "recipe.train.accumulate: 1 → 2")
    again = document(command("retry", job, "--apply", "recipe.train.batch", "--json"))
    assert (again["recipe"]["train"]["batch"], again["recipe"]["train"]["accumulate"]) == (16, 1)
    assert "recipe.train.rate" in command("retry", job, "--apply", "recipe.train.rate").err
    for one in document(command("ls", "--state", "queued", "--json")):
        command("cancel", one["id"])


def test_a_report_is_shared_by_a_link_that_can_be_revoked(live: Live, command: Command, job: str) -> None:
    assert document(command("share", job, "--json"))["error"]["code"] == "report_not_ready"
    live.end(job, succeed)
    made = document(command("share", job, "--days", "2", "--json"))
    assert "distilled" in httpx.get(made["url"]).text
    assert [link["id"] for link in document(command("share", job, "--list", "--json"))] == [made["id"]]
    assert made["url"] not in command("share", job, "--list").out
    assert command("share", job, "--revoke", made["id"]).code == 0
    assert httpx.get(made["url"]).status_code == 404
    assert command("share", job, "--days", "1000").code == 2


def test_a_job_is_deleted_once_it_is_over(live: Live, command: Command, job: str) -> None:
    refused = command("rm", job)
    assert refused.code == 6
    assert "lathe cancel" in refused.err
    live.end(job, succeed)
    assert document(command("rm", job, "--json")) == {"deleted": [job]}
    assert command("show", job).code == 6


def test_a_question_that_nobody_can_answer_is_refused(live: Live, command: Command, job: str) -> None:
    ran = command("try", job, "the film was good", "--json")
    assert ran.code == 6
    assert document(ran)["error"]["remedy"]
    assert command("try", job, "--image", str(Path(__file__).with_name("none.png"))).code == 2


def test_jobs_are_found_by_any_of_their_states_and_a_part_of_their_name(live: Live, command: Command, job: str) -> None:
    live.end(job, succeed)
    model, dataset = live.ready()
    other = document(command("submit", "--model", model, "--data", dataset, "--name", "needle 7", "--json"))["id"]
    found = document(command("ls", "--state", "queued", "--state", "succeeded", "--json"))
    assert {job, other} <= {item["id"] for item in found}
    assert [item["id"] for item in document(command("ls", "--search", "needle", "--json"))] == [other]
    listed = next(line for line in command("ls").out.splitlines() if job in line)
    assert "−35.0 % parameters, −82.5 % bytes, 2.50× as fast, 98.0 % kept" in listed
    assert other in command("queue").out
    command("cancel", other)


def complete(home: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    env = {**os.environ, "LATHE_HOME": str(home), "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    env["_LATHE_COMPLETE"] = "complete_bash"
    command = [str(Path(sys.executable).parent / "lathe")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stderr == ""
    return done.stdout.split()


def test_the_shell_completes_commands_jobs_and_recipes(live: Live, home: Path, job: str) -> None:
    assert {"watch", "wait", "workers"} <= set(complete(home, "lathe", "w"))
    wait_for(lambda: job in complete(home, "lathe", "watch", "job_"))  # of a service that takes long it offers nothing
    wait_for(lambda: complete(home, "lathe", "recipe", "show", "qui") == ["quick"])
    assert complete(home, "lathe", "ls", "--state", "can") == ["cancelled"]


def test_the_shell_offers_nothing_where_nobody_answers(home: Path) -> None:
    assert complete(home, "lathe", "watch", "job_") == []
    config.save(config.Config(f"http://127.0.0.1:{free_port()}", "lathe_a_b"), home)
    assert complete(home, "lathe", "watch", "job_") == []


def test_a_model_of_a_hub_is_said_to_be_fetched_first(live: Live, command: Command) -> None:
    ran = command("submit", "--model", "google/bert_uncased_L-2_H-128_A-2", "--data", "dat_1")
    assert ran.code == 2
    assert "hf download google/bert_uncased_L-2_H-128_A-2" in ran.err


def test_a_job_without_artifacts_has_nothing_to_download(live: Live, command: Command, job: str) -> None:
    ran = command("download", job)
    assert ran.code == 1
    assert "nothing to download" in ran.err


def test_what_a_running_job_has_so_far_is_downloaded_with_a_word_of_warning(
    live: Live, command: Command, job: str, tmp_path: Path
) -> None:
    (artifact, *_) = report().artifacts
    made = artifact.model_copy(update={"files": ()})
    live.end(job, lambda session, claim: stage_results.add_artifacts(session, claim, [(made, {})]))
    ran = command("download", job, "--out", str(tmp_path / "download"))
    assert "The job is running: these are of a stage that is done, not its result." in ran.out
    command("cancel", job)


def test_the_recommended_artifact_alone_is_downloaded_or_else_the_headline(
    live: Live, command: Command, job: str, tmp_path: Path
) -> None:
    found = recommending(further().model_copy(update={"files": ()}))

    def succeed_in_two_formats(session: Session, claim: fencing.Claim) -> None:
        jobs.finish(session, claim, found.model_dump(mode="json"), [(artifact, {}) for artifact in found.artifacts])

    live.end(job, succeed_in_two_formats)
    folder = str(tmp_path / "download")
    got = document(command("download", job, "--recommended", "--out", folder, "--json"))
    assert [one["name"] for one in got["artifacts"]] == ["distilled-openvino-int8"]
    both = document(command("download", job, "--out", folder, "--json"))
    assert [one["name"] for one in both["artifacts"]] == ["distilled-onnx-int8", "distilled-openvino-int8"]
    refused = command("download", job, "--recommended", "--kind", "onnx")
    assert refused.code == 2
    assert "--recommended" in refused.err
    assert command("download", job, "--all", "--stage", "pruned").code == 2
    assert validated().to_run == ("distilled-onnx-int8",)


def test_dotted_keys_are_set_in_a_copy() -> None:
    recipe = {"prune": {"ratio": 0.3}, "distill": None}
    expected = {"prune": {"ratio": 0.4}, "distill": {"epochs": 2}, "quantize": None}
    assert override(recipe, {"prune.ratio": 0.4, "distill.epochs": 2, "quantize": None}) == expected
    assert recipe == {"prune": {"ratio": 0.3}, "distill": None}
