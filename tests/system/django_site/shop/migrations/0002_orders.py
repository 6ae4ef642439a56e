"""A column and a table more; reads what the migration before wrote."""

import django.db.models.deletion
from django.db import migrations, models


def tag(apps, _):
    product = apps.get_model("shop", "Product")
    assert product.objects.count() == 5, "a migration does not see what the one before wrote"
    for one in product.objects.filter(tags=[]).order_by("id"):
        one.tags = ["new"]
        one.save()
    assert product.objects.filter(tags=["new"]).count() == 5


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    atomic = False
    operations = [
        migrations.AddField("Product", "tags", models.JSONField(default=list)),
        migrations.CreateModel("Order", [
            ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
            ("quantity", models.PositiveIntegerField()),
            ("placed", models.DateTimeField(auto_now_add=True)),
            ("paid", models.BooleanField(default=False)),
            ("product", models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="orders", to="shop.product")),
        ]),
        migrations.RunPython(tag, migrations.RunPython.noop),
    ]
