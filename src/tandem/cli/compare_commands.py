"""``tandem compare`` and ``tandem demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tandem.cli.output import note, print_json
from tandem.cli.spec_commands import Json, Overrides


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (compare, demo):
        app.command()(command)


def compare(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A spec of kind compare.")] = None,
    overrides: Overrides = None,
    docs: Annotated[Path | None, typer.Option(help="A folder of documents, instead of a file.")] = None,
    qa: Annotated[Path | None, typer.Option(help="Questions and answers: JSONL, CSV or Parquet.")] = None,
    adapter: Annotated[
        str | None, typer.Option(metavar="URI", help="Compare this adapter instead of training one.")
    ] = None,
    no_train: Annotated[bool, typer.Option("--no-train", help="Compare base and rag alone.")] = False,
    seeds: Annotated[int, typer.Option(min=1, max=10, help="Adapters of each kind, which differ by their seed.")] = 1,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="Ask as many questions as fit into this time: 30m.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="An answer in about five minutes: nothing is trained, few questions.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="Of the collection, jobs and application; default: the folder's.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="URI", help="The base model; default: SmolLM2-135M-Instruct.")
    ] = None,
    embedder: Annotated[
        str | None, typer.Option(metavar="URI", help="The embedder; default: all-MiniLM-L6-v2.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="Of the verdict: em, f1, rouge_l, bleu or chrf. Long answers want another than em."),
    ] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Training steps at most.")] = None,
    no_deploy: Annotated[bool, typer.Option("--no-deploy", help="Don't serve what was compared.")] = False,
    json: Json = False,
) -> None:
    """Find out which strategy wins on your questions: retrieval, fine-tuning, or both."""
    from tandem.cli.client import Client
    from tandem.cli.compare import compare_documents, compare_spec, quick_note, seconds_of
    from tandem.cli.follow import print_report
    from tandem.errors import InputError
    from tandem.orchestrator.compare_flow import QUICK_S, CompareOptions
    from tandem.specs.compare import DECIDES

    def refuse(options: str, why: str, remedy: str) -> None:
        sources = {each: context.get_parameter_source(each) for each in options.split()}
        given = [each for each, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
        if given:
            said = ", ".join("--" + each.replace("_", "-") for each in given)
            raise InputError(f"{said}: {why}", remedy=remedy)

    if file is not None:
        # Before anything else is asked for: they would look as if they had counted.
        refuse("docs qa", "a FILE names its own collection and questions", "give a FILE, or --docs and --qa, not both")
        names = "adapter no_train seeds name model embedder metric max_steps no_deploy"
        refuse(names, "for --docs and --qa alone", "change the FILE's spec: `tandem compare FILE model=…`")
    budget_s = seconds_of(budget) if budget is not None else QUICK_S if quick else None
    if file is not None:
        said = [] if budget_s is None else [f"budget_s={budget_s}"]
        report, folder = compare_spec(file, [*(overrides or []), *said], connect=Client.connect)
    elif docs is not None and qa is not None:
        if adapter is not None and no_train:
            raise InputError("--adapter and --no-train exclude each other")
        if metric is not None and metric not in DECIDES["generation"]:
            raise InputError(f"--metric: {metric!r} is none of {', '.join(DECIDES['generation'])}")
        if no_train or quick or adapter is not None:
            refuse("seeds max_steps", "nothing is trained", "leave --no-train, --quick and --adapter out, or these")
        options = CompareOptions(
            name=name,
            model=model,
            embedder=embedder,
            adapter=adapter,
            train=not (no_train or quick) and adapter is None,
            seeds=seeds,
            metric=metric,
            max_steps=max_steps,
            budget_s=budget_s,
            deploy=not (no_deploy or quick),
        )
        report, folder = compare_documents(docs, qa, options, connect=Client.connect)
    else:
        raise InputError("nothing to compare", remedy="give a FILE, or --docs DIR and --qa FILE")
    if json:
        print_json(report)
        return
    print_report(report)
    if quick:
        note(quick_note(report))
    note(f"report: {folder / 'report.html'}")


def demo() -> None:
    """Tell the whole story on real models and documents; ends with the verdict."""
    from tandem.cli.demo import run

    run()
