"""For maintainers: copies the demo's finished models and their evaluations to data/models/.

What is released for a configuration stays; delete its folder there to renew it.

python -m sos.release
"""

import shutil

from sos import config, evaluation, models, paths


def main() -> None:
    profile = config.profile("demo")
    for experiment in profile.experiments.values():
        target = paths.SHIPPED / models.identity(experiment)
        if target.exists():
            continue
        model = models.load_or_train(experiment, "train")
        evaluation.load_or_measure(model, profile.evaluation)
        stamp = evaluation.stamp_of(model, profile.evaluation)
        with paths.replacing(target) as temporary:
            shutil.copytree(model.folder, temporary)
            shutil.copyfile(evaluation.cached_file(model, stamp), temporary / "evaluation.json")
            for older in paths.SHIPPED.glob(f"{experiment.name}-*"):
                shutil.rmtree(older)
        print(target)


if __name__ == "__main__":
    main()
