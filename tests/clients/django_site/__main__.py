"""Run the site on Django's own server, on the port that PORT names."""

# Django and these libraries bring no types
# mypy: disable-error-code="import-untyped"

import os

import django
from django.core.management import call_command

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.clients.django_site.settings"
django.setup()
call_command("migrate", verbosity=0)
call_command("runserver", f"127.0.0.1:{os.environ['PORT']}", use_reloader=False)
