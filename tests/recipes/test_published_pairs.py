"""Until the pairs have no numbers of their own: these are those of the published tables."""

from letkd_keras.recipes import pairs
from letkd_keras.recipes.published import ablations_of, published


def test_numbers_of_the_pairs_are_the_published_ones():
    count = 0
    for pair in pairs.PAIRS:
        for method, top1 in pair.published.items():
            assert published(pair.dataset, pair.name, method).top1 == top1, (pair.name, method)
            count += 1
        for method, top5 in pair.published_top5.items():
            assert published(pair.dataset, pair.name, method).top5 == top5, (pair.name, method)
        for method, top1 in pair.published_ablation.items():
            assert ablations_of(pair.dataset, pair.name)[method].top1 == top1, (pair.name, method)
    assert count == 10 * 9 - 1 + 5 * 2 + 2 * 7
