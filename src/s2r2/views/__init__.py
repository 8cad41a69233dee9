"""Pixels to random views: recipes, the table of parameters, the fused kernel, the loader."""

from typing import TYPE_CHECKING

from s2r2.system.lazy_imports import lazy_imports

if TYPE_CHECKING:
    from s2r2.views.loader import ViewBatch as ViewBatch, ViewLoader as ViewLoader
    from s2r2.views.orders import epoch_order as epoch_order
    from s2r2.views.parameters import (
        ViewParameters as ViewParameters,
        draw_parameters as draw_parameters,
    )
    from s2r2.views.recipe import (
        RECIPES as RECIPES,
        Recipe as Recipe,
        get_recipe as get_recipe,
        view_sizes as view_sizes,
    )
    from s2r2.views.rendering import (
        blur_kernel as blur_kernel,
        centre_parameters as centre_parameters,
        render_centre as render_centre,
        render_views as render_views,
    )
    from s2r2.views.sheet import check_sheet as check_sheet, views_sheet as views_sheet
else:
    __all__, __getattr__, __dir__ = lazy_imports(__name__)
