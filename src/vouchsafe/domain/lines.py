"""Which lines of an order are meant."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from vouchsafe.domain.order import Line

Matcher = Callable[[Line], bool]


class LineSelector(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Lines by what they sell. A line is meant when nothing excludes it and, if anything is included, something
    includes it: its sku, its product or one of its categories. An empty selector means every line."""

    skus: tuple[str, ...] = ()
    product_ids: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    excluded_skus: tuple[str, ...] = ()
    excluded_product_ids: tuple[str, ...] = ()
    excluded_categories: tuple[str, ...] = ()

    @property
    def excludes_only_what_it_includes(self) -> bool:
        """Whether no line can ever match, as far as the lists alone tell."""
        included = (self.skus, self.product_ids, self.categories)
        excluded = (self.excluded_skus, self.excluded_product_ids, self.excluded_categories)
        return any(included) and all(
            set(inside) <= set(outside) for inside, outside in zip(included, excluded, strict=True)
        )


def matcher(selector: LineSelector | None) -> Matcher | None:
    """A test for one line, or None when every line matches: then there is nothing to ask."""
    if selector is None or selector == LineSelector():
        return None
    skus, products, categories = map(frozenset, (selector.skus, selector.product_ids, selector.categories))
    no_skus, no_products, no_categories = map(
        frozenset, (selector.excluded_skus, selector.excluded_product_ids, selector.excluded_categories)
    )
    excludes = bool(no_skus or no_products or no_categories)
    # The two that are asked for most, without the questions that they do not ask.
    if categories and not (skus or products or excludes):
        return lambda line: not categories.isdisjoint(line.categories)
    if skus and not (products or categories or excludes):
        return lambda line: line.sku in skus
    includes = bool(skus or products or categories)

    def matches(line: Line) -> bool:
        if line.sku in no_skus or line.product_id in no_products or not no_categories.isdisjoint(line.categories):
            return False
        return (
            not includes
            or line.sku in skus
            or line.product_id in products
            or not categories.isdisjoint(line.categories)
        )

    return matches
