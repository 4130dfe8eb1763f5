"""The provider that needs no model: it makes observations from what tool uses say of themselves."""

from onlooker.providers.rules.provider import RulesProvider, observe

__all__ = ["RulesProvider", "observe"]
