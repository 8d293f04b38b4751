"""``tandem.serving.app:build``: a `RagSpec` to a Ray Serve application, Ingress → Retriever, LLM."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tandem.artifacts.uris import resolve
from tandem.config.cluster import Cluster
from tandem.config.machine import read_processor
from tandem.errors import SpecError
from tandem.models.engines.hardware import EngineName, choose_dtype, choose_engine, vllm_obstacle
from tandem.models.engines.prompting import check_template, is_plain, load_tokenizer
from tandem.models.loading import adapter_path, model_path
from tandem.models.lora import check_fits
from tandem.models.rag_sequence import check_rag_model
from tandem.serving.scaling import backend_options, drain_options, ingress_options, replica_options
from tandem.specs.compare import EngineSpec
from tandem.specs.rag import BASE_MODEL, RagSequenceSpec, RagSpec, UpstreamSpec

if TYPE_CHECKING:
    from ray.serve import Application

logger = logging.getLogger(__name__)

# Ingress and retriever mostly wait.
SMALL_CPUS = 0.1


def build(args: dict[str, Any]) -> Application:
    """The endpoint's application; Ray Serve calls this with the config's ``args``.

    Weights, adapters, reranker and keys are looked up here, so that what is missing fails the deployment at once.

    Raises:
        SpecError: The arguments aren't a `RagSpec`, or the model's chat template refuses the system prompt.
        UnreachableError: This process knows of no cluster.
        InputError, ModelError, NotFoundError: A model, an adapter or the keys.
    """
    spec = read_spec(args)
    cluster = Cluster.load()
    model = model_path(spec.model, storage=cluster.storage)
    plain = False
    if isinstance(spec.engine, RagSequenceSpec):
        check_rag_model(model)
    else:
        tokenizer = load_tokenizer(model)
        check_template(tokenizer, spec.prompt)
        plain = is_plain(tokenizer, model)
    adapters = {adapter.name: adapter_path(adapter.uri, storage=cluster.storage) for adapter in spec.adapters}
    for path in adapters.values():
        check_fits(path, model)
    if spec.retriever.rerank is not None:
        resolve(spec.retriever.rerank.model, storage=cluster.storage)
    language_model = _language_model(spec, model, adapters, cluster.storage)
    return assemble(spec, cluster, model, language_model, plain=plain)


def assemble(spec: RagSpec, cluster: Cluster, model: Path, language_model: Application, *, plain: bool) -> Application:
    """Ingress and retriever before a language model.

    Args:
        spec: The application.
        cluster: Where it runs.
        model: The base model's folder; the ingress counts tokens by its tokenizer.
        language_model: A bound deployment of a `LanguageModel`.
        plain: Whether that tokenizer is what its tokenizer.json says: see `is_plain`.
    """
    from ray import serve

    from tandem.serving.replicas import Ingress
    from tandem.serving.searching import Retriever

    settings = spec.canonical()
    ingress = serve.deployment(serve.ingress()(Ingress)).options(
        name="Ingress",
        **replica_options(spec.autoscaling.ingress),
        **ingress_options(spec),
        ray_actor_options={"num_cpus": SMALL_CPUS},
        user_config=spec.user_config(),
    )
    retriever = serve.deployment(Retriever).options(
        name="Retriever",
        **backend_options(spec.autoscaling.retriever),
        **drain_options(spec),
        ray_actor_options={"num_cpus": SMALL_CPUS},
    )
    return ingress.bind(
        settings,
        str(model),
        plain,
        str(keys_path(spec, cluster)),
        retriever.bind(
            str(cluster.storage),
            settings["retriever"],
            spec.cache.embeddings,
            str(model) if isinstance(spec.engine, RagSequenceSpec) else None,
        ),
        language_model,
    )


def read_spec(args: dict[str, Any]) -> RagSpec:
    """The application's arguments, checked.

    Raises:
        SpecError: With the first fault; `tandem validate` shows all.
    """
    try:
        return RagSpec.model_validate(args)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise SpecError(
            fault["msg"], where="args." + ".".join(map(str, fault["loc"])), remedy="`tandem validate` shows every fault"
        ) from None


def keys_path(spec: RagSpec, cluster: Cluster) -> Path:
    """The file of hashed keys: the spec's, a relative path being one in the storage folder, else the cluster's."""
    return cluster.storage / (spec.api_keys or "api-keys.json")


def _language_model(spec: RagSpec, model: Path, adapters: dict[str, Path], storage: Path) -> Application:
    import ray
    from ray import serve

    replicas, drain = spec.autoscaling.llm, drain_options(spec)
    if isinstance(spec.engine, UpstreamSpec):
        from tandem.serving.upstream import UpstreamServer

        options = {**backend_options(replicas), **drain, "ray_actor_options": {"num_cpus": SMALL_CPUS}}
        return serve.deployment(UpstreamServer).options(name="LLM", **options).bind(spec.engine.canonical())
    gpus = spec.gpus_per_replica
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU", 0) else 0.0
    actor = {"num_cpus": spec.cpus_per_replica, "num_gpus": gpus}
    if isinstance(spec.engine, RagSequenceSpec):
        from tandem.serving.rag_sequence import RagSequenceServer

        options = {**backend_options(replicas, max_ongoing_requests=2), **drain, "ray_actor_options": actor}
        model_server = serve.deployment(RagSequenceServer).options(name="LLM", **options)
        return model_server.bind(spec.engine.canonical(), str(model))
    engine = _engine_name(spec.name, spec.engine, gpus)
    if engine == "vllm":
        from ray.serve.llm.deployment import LLMServer

        from tandem.serving.vllm_server import VllmServer

        config = vllm_config(spec, model, adapters, gpus=gpus, deployment={**backend_options(replicas), **drain})
        served = spec.served_adapters(max_rank=config.engine_kwargs.get("max_lora_rank", 0))
        options = {**LLMServer.get_deployment_options(config), "name": "LLM", "user_config": served.canonical()}
        return serve.deployment(VllmServer).options(**options).bind(config, str(model), str(storage))
    from tandem.serving.transformers_server import BATCH, TransformersServer

    server = serve.deployment(TransformersServer).options(
        name="LLM",
        ray_actor_options=actor,
        user_config=spec.served_adapters(max_rank=None).canonical(),
        **backend_options(replicas, max_ongoing_requests=2 * BATCH),
        **drain,
    )
    return server.bind(spec.engine.canonical(), str(model), str(storage))


def _engine_name(app: str, engine: EngineSpec, gpus: float) -> EngineName:
    # Judged where the application is built. With GPUs that is the head, which may have none: vLLM then shows itself
    # on the replica.
    processor = read_processor()
    obstacle = None if engine.name == "transformers" or gpus else vllm_obstacle(processor)
    name, reason = choose_engine(engine.name, obstacle)
    logger.info("endpoint %s: engine %s (%s)", app, name, reason)
    return name


def vllm_config(
    spec: RagSpec, model: Path, adapters: dict[str, Path], *, gpus: float, deployment: dict[str, Any]
) -> Any:
    """The `ray.serve.llm.LLMConfig` of a spec.

    Args:
        spec: The application's spec.
        model: The base model's folder.
        adapters: Folders of PEFT adapters, by name.
        gpus: Of one replica.
        deployment: Options of the Serve deployment.
    """
    from ray.serve.llm import LLMConfig

    from tandem.models.engines.vllm import engine_options, environment

    engine = spec.engine
    assert isinstance(engine, EngineSpec)
    on_gpu = gpus > 0
    options = engine_options(engine, adapters, dtype="float32", on_gpu=on_gpu, room=spec.lora)
    # A GPU's number type is chosen by vLLM where the GPU is.
    options["dtype"] = engine.dtype if on_gpu else choose_dtype(engine.dtype, read_processor(), engine="vllm")
    bundles = worker_bundles(spec.cpus_per_replica, gpus)
    options["tensor_parallel_size"] = len(bundles)
    return LLMConfig(
        model_loading_config={"model_id": BASE_MODEL, "model_source": str(model)},
        engine_kwargs=options,
        # Ray's own way holds every piece back, the first one too; ours are paced in `VllmServer`.
        experimental_configs={"stream_batching_interval_ms": 0},
        # The bundle counts the replica's processors already; the replica actor itself would add one more.
        deployment_config={**deployment, "ray_actor_options": {"num_cpus": 0}},
        placement_group_config={"bundles": bundles, "strategy": "STRICT_PACK"},
        runtime_env={"env_vars": environment(engine, on_gpu=on_gpu)},
    )


def worker_bundles(cpus: float, gpus: float) -> list[dict[str, float]]:
    """What each of a replica's vLLM workers reserves: one, or one for each of several GPUs.

    Args:
        cpus: Of the replica.
        gpus: Of the replica: none, a share of one, or a whole number.
    """
    workers = max(1, int(gpus))
    return [{"CPU": cpus / workers} | ({"GPU": min(gpus, 1.0)} if gpus else {})] * workers
