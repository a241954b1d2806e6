"""Model cards: the README.md of a repository on a hub, whose head tells machines what it is and how good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["Figures", "format_card"]

# Data set to metric to measured value, such as {"ESC-50": {"accuracy": 0.9115}}.
Figures = Mapping[str, Mapping[str, float]]


def format_card(
    name: str,
    body: str,
    *,
    tags: Iterable[str] = (),
    licence: str = "",
    figures: Figures | None = None,
    task: str = "audio-classification",
) -> str:
    """Write a model card.

    Parameters
    ----------
    name : str
        Of the model.
    body : str
        Markdown.
    tags : iterable of str
        Beside "audio" and "sedembed".
    licence : str
        As the hub writes it, such as "cc-by-nc-4.0"; empty for none stated.
    figures : mapping, optional
        Measured figures: data set to metric to value. They become the ``model-index``.
    task : str
        Task of the figures, as the hub names it.

    Returns
    -------
    str
        The text, with a YAML head.
    """
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=task,
            dataset_type=dataset.lower().replace(" ", "-"),
            dataset_name=dataset,
            metric_type=metric,
            metric_value=float(value),
        )
        for dataset, metrics in (figures or {}).items()
        for metric, value in metrics.items()
    ]
    head = ModelCardData(
        library_name="sedembed",
        license=licence or None,
        tags=list(dict.fromkeys(["audio", "sedembed", *tags])),
        pipeline_tag=task,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return f"---\n{head.to_yaml()}\n---\n\n{body.strip()}\n"
