"""`temper graders`: what can be named in a recipe."""

import typer


def graders() -> None:
    """List the graders by name, with the first line of what each says of itself."""
    from temper import registry

    for name in registry.names("grader"):
        found = registry.find("grader", name)
        said = (found.__doc__ or "").strip().splitlines()
        typer.echo(f"{name:<14}{said[0] if said else ''}")
