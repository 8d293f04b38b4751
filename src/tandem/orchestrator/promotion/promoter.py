"""Promotes versions of fine-tuned models into endpoints, and takes them back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tandem.artifacts.manifest import latest
from tandem.errors import ConflictError, InputError, ModelError, NotFoundError, NotPromotedError
from tandem.models.loading import model_path_here
from tandem.models.lora import check_fits
from tandem.orchestrator.deploying.deployer import Deployer
from tandem.orchestrator.deploying.releases import Act, Cause
from tandem.orchestrator.deploying.served import in_words, serves, tried_of, version_in, version_of
from tandem.orchestrator.promotion.changes import Change, changes, earlier, promoted, taken_back, without_canary
from tandem.orchestrator.promotion.comparisons import Comparison, comparisons
from tandem.orchestrator.promotion.evidence import Models, find_version, standing_in
from tandem.orchestrator.promotion.rules import Version, weigh
from tandem.specs.rag import RagSpec

# While it is judged somebody else may change the endpoint: then it is judged anew.
TRIES = 3


class Promoter:
    """Looks up what the rules need, and has the deployer carry out what they allow.

    Args:
        storage: The cluster's storage folder.
        deployer: Changes endpoints.
    """

    def __init__(self, storage: Path, deployer: Deployer) -> None:
        self._storage = storage
        self.deployer = deployer

    def promote(
        self,
        model: str,
        version: str | None,
        *,
        app: str | None = None,
        share: float | None = None,
        force: bool = False,
        dry_run: bool = False,
        already_there_is_fine: bool = False,
        by: str = "",
        job: str = "",
    ) -> Change:
        """Have a version answer what is asked of an endpoint's own name, or a share of that.

        Args:
            model: Its name.
            version: The id of the job that made it; None: the newest.
            app: The endpoint; None: the one that has this model, or else the only one.
            share: Of a canary, between 0 and 1; None: all.
            force: Whatever the comparisons say.
            dry_run: Say what would be done, and do nothing.
            already_there_is_fine: Then nothing changes.
            by: Whose key it is asked with.
            job: The promote job that asks for it.

        Raises:
            ConflictError: It answers already, or there is no place for it.
            InputError: There are several endpoints and none is named; or it doesn't fit into this one.
            ModelError: It isn't whole, or of another base model.
            NotFoundError: No such model, version or endpoint.
            NotPromotedError: The rules refuse it.
        """
        found = find_version(self._storage, model, version)
        name = self.app_of(model, app)
        known = comparisons(self._storage)

        def plan(before: RagSpec) -> tuple[RagSpec, Change]:
            after = promoted(before, found, share=share)
            if after == before and not already_there_is_fine:
                raise ConflictError(f"{found.id} answers there already", where=name)
            change = self._judged(name, found, before, after, share, known)
            if change.refusals and change.changed and not force and not dry_run:
                raise NotPromotedError(
                    f"{found.id} may not take over: {'; '.join(change.refusals)}",
                    where=name,
                    remedy="`--force` promotes it all the same, and is written down",
                )
            return after, change

        cause = Cause(Act.PROMOTE if share is None else Act.CANARY, by, job)
        return self._carry_out(name, plan, cause, dry_run=dry_run)

    def rollback(
        self,
        model: str,
        *,
        app: str | None = None,
        dry_run: bool = False,
        by: str = "",
        job: str = "",
        expected: RagSpec | None = None,
    ) -> Change:
        """Have an endpoint answer with the version of a model that it had before; a canary of it just ends.

        Args:
            model: Its name.
            app: The endpoint; None: the one that has this model, or else the only one.
            dry_run: Say what would be done, and do nothing.
            by: Whose key it is asked with.
            job: The promote job that asks for it.
            expected: Only where the endpoint answers with this; None: whatever it answers with.

        Raises:
            ConflictError: There is nothing before, it doesn't go with what is there now, or that isn't expected.
            InputError: There are several endpoints and none is named.
            ModelError: The version from before was trained over another base model.
            NotFoundError: No such endpoint, or the version from before is gone.
        """
        name = self.app_of(model, app)

        def plan(before: RagSpec) -> tuple[RagSpec, Change]:
            tried = tried_of(before, model)
            after, notes = (without_canary(before, model), ()) if tried else self._back(name, before, model)
            change = Change(
                app=name,
                model=model,
                version=version_of(after, model),
                was=tried or version_of(before, model),
                share=before.canary.share if tried and before.canary else None,
                answers=in_words(after),
                answered=in_words(before),
                changed=changes(before, after),
                notes=notes,
            )
            return after, change

        return self._carry_out(name, plan, Cause(Act.ROLLBACK, by, job), dry_run=dry_run, expected=expected)

    def _carry_out(
        self,
        name: str,
        plan: Callable[[RagSpec], tuple[RagSpec, Change]],
        cause: Cause,
        *,
        dry_run: bool,
        expected: RagSpec | None = None,
    ) -> Change:
        for _ in range(TRIES):
            before = self.deployer.endpoint(name)
            if expected not in (None, before):
                break
            after, change = plan(before)
            if dry_run or after == before:
                return change
            facts = change.facts() | {"forced": bool(change.refusals), "said": str(change)}
            if self.deployer.change(name, before, after, replace(cause, facts=facts)):
                return change
        raise ConflictError("others are changing it at the same time", where=name, remedy="look again, then try again")

    def app_of(self, model: str, app: str | None) -> str:
        """The endpoint that is meant.

        Raises:
            InputError: There are several, and none is named.
            NotFoundError: There is none.
        """
        if app is not None:
            return app
        endpoints = self.deployer.endpoints()
        having = [name for name, spec in endpoints.items() if serves(spec, model)]
        fitting = having or list(endpoints)
        if len(fitting) == 1:
            return fitting[0]
        if not fitting:
            raise NotFoundError("no endpoint is deployed", remedy="`tandem deploy FILE`")
        where = "have it" if having else "could take it"
        raise InputError(f"{', '.join(fitting)} {where}", where=model, remedy="name one with --app")

    def _judged(
        self,
        app: str,
        version: Version,
        before: RagSpec,
        after: RagSpec,
        share: float | None,
        known: Sequence[Comparison],
    ) -> Change:
        if version.kind == "adapter":
            self._check_base(version, after)
        standing = standing_in(version, before, after, known, self._storage)
        judgement = weigh(
            before,
            after,
            standing,
            live=in_words(before),
            beside=self._beside(after, version),
            snapshot=self.deployer.snapshot(after),
            canary=share is not None,
        )
        return Change(
            app=app,
            model=version.name,
            version=version.id,
            was=version_of(before, version.name),
            share=share,
            answers=in_words(after),
            answered=in_words(before),
            changed=changes(before, after),
            standing=standing,
            refusals=judgement.refusals,
            notes=judgement.notes,
        )

    def _check_base(self, version: Version, spec: RagSpec) -> None:
        trained_on = version.meta.get("base_model")
        if trained_on is not None and not Models(self._storage).may_be_same(str(trained_on), spec.model):
            raise ModelError(
                f"trained on another base model, {trained_on}",
                where=version.uri,
                remedy=f"the application has {spec.model}",
            )
        base = model_path_here(spec.model, storage=self._storage)
        if base is not None:
            check_fits(version.folder, base)

    def _beside(self, spec: RagSpec, version: Version) -> list[Version]:
        """The other versions that an application has; of one that is gone nothing can be told."""
        found = []
        for each in spec.adapters:
            named = version_in(each.uri)
            if named is not None and named[1] != version.id:
                with suppress(NotFoundError, ModelError):
                    found.append(find_version(self._storage, *named))
        return found

    def _back(self, app: str, now: RagSpec, model: str) -> tuple[RagSpec, tuple[str, ...]]:
        """An endpoint with what it had of a model before, and what is to be known of that."""
        life = [(release, spec) for release in self.deployer.releases.life(app) if (spec := release.read())]
        history = [
            (spec, release.act is Act.ROLLBACK and release.facts.get("model") == model) for release, spec in life
        ]
        place = earlier(history, now, model)
        if place is None:
            raise ConflictError(
                f"{model} has stood for nothing else here before", where=app,
                remedy="`tandem releases` says what answered; `tandem promote MODEL VERSION` names one",
            )  # fmt: skip
        release, then = life[place]
        after = taken_back(now, without_canary(then, model), model)
        self._check_new(now, after)
        indexed, snapshot = release.facts.get("index"), self.deployer.snapshot(after)
        if None in (indexed, snapshot) or indexed == snapshot:
            return after, ()
        collection = after.retriever.collection
        note = f"{collection} has been indexed anew since then; `tandem index rollback {collection}` goes back to the "
        return after, (note + "collection from before, where one was kept",)

    def _check_new(self, before: RagSpec, after: RagSpec) -> None:
        """What comes in must be there, and fit."""
        there = {before.model, *(each.uri for each in before.adapters)}
        for each in after.adapters:
            named = version_in(each.uri)
            if each.uri not in there and named:
                self._check_base(find_version(self._storage, *named), after)
        named = version_in(after.model)
        if after.model not in there and named:
            latest(self._storage, *named)
