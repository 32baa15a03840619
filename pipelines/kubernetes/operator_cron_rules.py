"""What the operator (v1.7.0) asks of a RayCronJob beside the rules of the job in it, a function per rule."""

from __future__ import annotations

import re

from pipelines.kubernetes.manifest import CronJob, CronRule, complaint_if

CRON_NAME_LIMIT = 36
"""The operator appends the time to a RayCronJob's name, and the result must still be the name of a RayJob."""

FIELDS = 5
_FIELD = re.compile(r"[-\dA-Za-z*/,?]+")
_SHORTHAND = re.compile(r"@(yearly|annually|monthly|weekly|daily|midnight|hourly)|@every \d+[hms](\d+[ms])*")


def cron_name_fits(cron: CronJob) -> list[str]:
    length = len(cron.name)
    return complaint_if(length > CRON_NAME_LIMIT, f"the name has {length} characters: {CRON_NAME_LIMIT} are allowed")


def schedule_is_cron(cron: CronJob) -> list[str]:
    fields = cron.schedule.split()
    good = len(fields) == FIELDS and all(_FIELD.fullmatch(field) for field in fields)
    wrong = not good and not _SHORTHAND.fullmatch(cron.schedule)
    return complaint_if(wrong, f"schedule {cron.schedule!r} is not one of cron: give five fields, such as 0 2 * * *")


def zone_stands_in_its_field(cron: CronJob) -> list[str]:
    wrong = "TZ=" in cron.schedule
    return complaint_if(wrong, "schedule names a time zone: put that into timeZone")


CRON_RULES: tuple[CronRule, ...] = (cron_name_fits, schedule_is_cron, zone_stands_in_its_field)
