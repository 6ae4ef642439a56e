"""The tables, and rows that the next migration changes."""

from django.db import migrations, models


def fill(apps, _):
    product = apps.get_model("shop", "Product")
    for number in range(5):
        product.objects.create(name=f"product {number}", price=number)
    assert product.objects.count() == 5


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel("Product", [
            ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
            ("name", models.CharField(max_length=100, unique=True)),
            ("price", models.DecimalField(decimal_places=2, max_digits=10)),
        ]),
        migrations.RunPython(fill, migrations.RunPython.noop),
    ]
