"""The site's settings. GRIP_URL and EVENTS_DATABASE, a file, come from the environment."""

import os

ALLOWED_HOSTS = ["*"]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["EVENTS_DATABASE"]}
}
EVENTSTREAM_CHANNELMANAGER_CLASS = "tests.clients.django_site.urls.Channels"
EVENTSTREAM_STORAGE_CLASS = "django_eventstream.storage.DjangoModelStorage"
GRIP_URL = os.environ["GRIP_URL"]
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django_eventstream"]
MIDDLEWARE = ["django_grip.GripMiddleware", "django.middleware.common.CommonMiddleware"]
ROOT_URLCONF = "tests.clients.django_site.urls"
SECRET_KEY = "a-secret-that-is-used-nowhere-else"
USE_TZ = True
