"""Who the tenants are, in the shared schema."""

from django.db import models
from django_tenants.models import DomainMixin, TenantMixin


class Client(TenantMixin):
    name = models.CharField(max_length=255)
    org_id = models.CharField(max_length=255, unique=True)
    initialize = models.BooleanField(default=False)

    auto_create_schema = True


class Domain(DomainMixin):
    pass
