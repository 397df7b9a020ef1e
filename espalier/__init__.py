"""What a program of yours imports: `from espalier import Client` speaks to a running service.

The package stands alone: it takes nothing from `app` or `workers`, names that a project of yours may have itself.
"""

from espalier.client import BadDownload, Client, NothingToUpload, ServiceError, Unreachable

__all__ = ["BadDownload", "Client", "NothingToUpload", "ServiceError", "Unreachable"]
