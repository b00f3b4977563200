"""Grid of settings from the texts of --tune."""

import pytest

from saccade import Recipe, UserError
from saccade.study.tuning_grid import label, tuning_grid


class TestGrid:
    base = Recipe().with_overrides({"training.lr": 0.006})

    def test_a_key_without_values_gets_three_defaults(self):
        assert tuning_grid(["lr"], self.base) == tuning_grid(["training.lr=0.002,0.006,0.018"], self.base)
        assert [values["training.lr"] for values in tuning_grid(["lr"], Recipe())] == [0.0167, 0.05, 0.15]

    def test_no_texts_give_an_empty_grid(self):
        assert tuning_grid([], self.base) == ()

    def test_several_keys_give_every_combination(self):
        found = tuning_grid(["lr=1,2", "optimizer=sgd,adamw"], self.base)
        assert [label(values) for values in found] == [
            "lr=1.0 optimizer=sgd", "lr=1.0 optimizer=adamw", "lr=2.0 optimizer=sgd", "lr=2.0 optimizer=adamw",
        ]  # fmt: skip
        assert tuning_grid(["data.augment=('flip',),('flip','crop')"], self.base)[1] == {
            "data.augment": ["flip", "crop"]
        }
        assert tuning_grid(["model.options.drop_rate=0.0,0.1"], self.base)[1] == {"model.options.drop_rate": 0.1}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("rl", r"the recipe has no such key\. Did you mean 'lr'"),
            ("lr=", r"write the values to try, as in --tune training\.lr=0\.01"),
            ("lr=0.1,none", r"training\.lr = 'none'"),
            ("epochs", "it is 10 in the recipe; write the values to try"),
            ("label_smoothing", r"it is 0\.0 in the recipe"),
            ("model.options.drop_rate", "does not have 'drop_rate'"),
            ("seed=1,2", "it sets what is compared"),
            ("model=a,b", "it sets what is compared"),
            ("attention=se,das", "it sets what is compared"),
            ("data.score_on=val,test", "it sets what is compared"),
            ("data.size=32,64", "it sets what is compared"),
        ],
    )
    def test_wrong_texts_are_refused(self, text, message):
        with pytest.raises(UserError, match=message):
            tuning_grid([text], self.base)

    def test_a_key_is_given_once(self):
        with pytest.raises(UserError, match=r"training\.lr is given twice"):
            tuning_grid(["lr", "training.lr=1,2"], self.base)
