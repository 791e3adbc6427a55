//! The regions of each Azure cloud, in lower case as in host names.
//!
//! `data-endpoints = "every-region"` expands to these when the policy is loaded. Operators list a
//! missing region in the policy until a release adds it. A wildcard would let clients put secrets
//! into names that the gate resolves.
//! Source: the list of Azure regions (`az account list-locations`), 2026.

/// The public cloud.
#[rustfmt::skip]
pub const PUBLIC: &[&str] = &[
    "australiacentral", "australiacentral2", "australiaeast", "australiasoutheast", "austriaeast",
    "belgiumcentral", "brazilsouth", "brazilsoutheast", "canadacentral", "canadaeast",
    "centralindia", "centralus", "centraluseuap", "chilecentral", "denmarkeast", "eastasia",
    "eastus", "eastus2", "eastus2euap", "eastus3", "francecentral", "francesouth", "germanynorth",
    "germanywestcentral", "indiasouthcentral", "indonesiacentral", "israelcentral",
    "israelnorthwest", "italynorth", "japaneast", "japanwest", "jioindiacentral", "jioindiawest",
    "koreacentral", "koreasouth", "malaysiasouth", "malaysiawest", "mexicocentral", "newzealandnorth",
    "northcentralus", "northeurope", "norwayeast", "norwaywest", "polandcentral", "qatarcentral",
    "southafricanorth", "southafricawest", "southcentralus", "southcentralus2", "southeastasia",
    "southeastus", "southindia", "spaincentral", "swedencentral", "swedensouth", "switzerlandnorth",
    "switzerlandwest", "taiwannorth", "taiwannorthwest", "uaecentral", "uaenorth", "uksouth",
    "ukwest", "westcentralus", "westeurope", "westindia", "westus", "westus2", "westus3",
];

/// China, operated by 21Vianet.
pub const CHINA: &[&str] =
    &["chinaeast", "chinaeast2", "chinaeast3", "chinanorth", "chinanorth2", "chinanorth3"];

/// US Government.
pub const US_GOVERNMENT: &[&str] =
    &["usdodcentral", "usdodeast", "usgovarizona", "usgoviowa", "usgovtexas", "usgovvirginia"];

/// Germany, retired in 2021.
pub const GERMANY: &[&str] = &["germanycentral", "germanynortheast"];

/// The sovereign cloud of Germany.
pub const SOVEREIGN_GERMANY: &[&str] = &["deloscloudgermanycentral", "deloscloudgermanynorth"];

/// The sovereign cloud of France.
pub const SOVEREIGN_FRANCE: &[&str] = &["bleufrancecentral", "bleufrancesouth"];

#[cfg(test)]
mod tests {
    use crate::policy::CLOUDS;

    #[test]
    fn regions_are_sorted_unique_and_in_letters_and_digits() {
        for cloud in CLOUDS {
            assert!(cloud.regions.windows(2).all(|pair| pair[0] < pair[1]), "{}", cloud.title);
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            assert!(cloud.regions.iter().all(|region| region.bytes().all(plain)));
        }
    }
}
